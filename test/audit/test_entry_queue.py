"""What does not fit is dropped, images first and the oldest of them; nobody waits."""

from vlm_agent_ros.audit.entry_queue import Entry, EntryQueue, Topic

IMAGE, TASK = Topic('/image', 'i', 'image', bulky=True), Topic('/task', 't', 'task')


def entries(topic, *numbers, size=1000):
    return [Entry(topic, bytes(size), number, number) for number in numbers]


def drain(queue):
    found = []
    while (entry := queue.take(0.0)) is not None:
        found.append((entry.topic, entry.time_ns))
    return found


def test_images_are_dropped_before_anything_else_and_the_oldest_first():
    queue = EntryQueue(5 * 1300)
    for entry in (*entries(IMAGE, 1, 2), *entries(TASK, 3, 4), *entries(IMAGE, 5), *entries(TASK, 6)):
        queue.put(entry)
    assert (queue.dropped_images, queue.dropped_others) == (1, 0)
    assert drain(queue) == [(TASK, 3), (TASK, 4), (TASK, 6), (IMAGE, 2), (IMAGE, 5)]


def test_without_images_the_oldest_makes_room():
    queue = EntryQueue(3 * 1300)
    for entry in entries(TASK, 1, 2, 3, 4, 5):
        queue.put(entry)
    assert (queue.dropped_images, queue.dropped_others) == (0, 2)
    assert drain(queue) == [(TASK, 3), (TASK, 4), (TASK, 5)]


def test_what_was_put_back_comes_first_again_and_counts():
    queue = EntryQueue(4 * 1300)
    for entry in entries(TASK, 3, 4):
        queue.put(entry)
    queue.put_back([*entries(TASK, 1), *entries(IMAGE, 0), *entries(TASK, 2)])
    assert queue.dropped_images == 1
    assert [time_ns for _, time_ns in drain(queue)] == [1, 2, 3, 4]
    assert len(queue) == 0
    queue.put(entries(TASK, 9, size=3000)[0])
    assert len(queue) == 1  # the memory of what was taken is free again


def test_one_entry_larger_than_the_queue_does_not_block_it():
    queue = EntryQueue(500)
    queue.put(entries(IMAGE, 1)[0])
    assert (len(queue), queue.dropped_images) == (0, 1)
    assert queue.take(0.01) is None
