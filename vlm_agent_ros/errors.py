"""The one exception type that is shown to a user as a sentence instead of a traceback."""


class UserError(Exception):
    """Bad input or a failed precondition, told in one clear sentence.

    The message names the file, key or topic that is wrong and the remedy. Command lines and nodes print it and
    exit with status 2; they never show its traceback.
    """
