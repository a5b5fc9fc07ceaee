"""An emulated cell: a process that speaks only the topics of a real one and is as stubborn as a real one."""
