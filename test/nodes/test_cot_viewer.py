"""The viewer prints what the agent thought, as it was meant before rqt's escapes, and each decision once."""

from vlm_agent_ros.cot import CotReport
from vlm_agent_ros.nodes.cot import CotPublisher

MODULE = 'vlm_agent_ros.nodes.cot_viewer'


def test_decisions_are_printed_once_and_unescaped(graph):
    publisher = CotPublisher(graph.node, {'trainer: world_3': '/world_3/trainer/chain_of_thought'})
    process = graph.start(MODULE, period_s=0.0)
    graph.wait(lambda: graph.node.count_subscribers('/diagnostics'))
    report = CotReport(task='pick <it>', thought='i see & think', action='pick 01 02', text='{}', logprob=-1.5,
                       value=0.5, latency_ms=12.0, checkpoint='tiny', image_age_ms=30.0)

    def printed():
        return graph.log(MODULE).read_text().count('pick 01 02')

    publisher.publish(report, 'trainer: world_3')
    graph.wait(lambda: printed() or publisher.repeat())  # the first may be gone before the viewer is connected
    for _ in range(3):
        publisher.repeat()
    graph.spin(0.5)
    publisher.repeat()
    graph.spin(0.1)
    assert printed() == 1
    publisher.publish(report, 'trainer: world_3')  # the same words again are another decision
    graph.wait(lambda: printed() == 2)
    text = graph.log(MODULE).read_text()
    assert 'trainer: world_3' in text
    assert 'pick <it>' in text
    assert 'i see & think' in text
    status, seconds = graph.interrupt(process)
    assert (status, seconds < 5.0) == (0, True)
