"""Two games as ordinary Gymnasium environments, drawn as images; importing this registers them.

They know nothing of the trainer, nor it of them: ``vlm-agent train --env gymnasium --import sim_worlds.games …``.
"""

import gymnasium

gymnasium.register('vlm_agent_ros/NumberLine-v0', entry_point='sim_worlds.games.number_line:NumberLine')
gymnasium.register('vlm_agent_ros/TwoCards-v0', entry_point='sim_worlds.games.two_cards:TwoCards')
