"""Packaging for colcon (ament_python) and for pip alike."""

import re
from pathlib import Path

from setuptools import find_packages, setup

NAME = 'vlm_agent_ros'
ROOT = Path(__file__).resolve().parent
VERSION = re.search(r"__version__ = '([^']+)'", (ROOT / NAME / '__init__.py').read_text(encoding='utf-8'))[1]


def data_files() -> list[tuple[str, list[str]]]:
    """The ament index entry, package.xml, and every file of config/, launch/ and models/ under share/."""
    files = [
        ('share/ament_index/resource_index/packages', [f'resource/{NAME}']),
        (f'share/{NAME}', ['package.xml']),
    ]
    for top in ('config', 'launch', 'models'):
        for folder in sorted({path.parent for path in (ROOT / top).rglob('*') if path.is_file()}):
            relative = folder.relative_to(ROOT)
            if '__pycache__' not in relative.parts:
                names = sorted(str(relative / path.name) for path in folder.iterdir() if path.is_file())
                files.append((f'share/{NAME}/{relative}', names))
    return files


setup(
    name=NAME,
    version=VERSION,
    description='A vision-language model as the decision maker of a robot cell, fine-tuned by reinforcement learning '
                'through the ROS 2 interface it is deployed on',
    long_description=(ROOT / 'README.md').read_text(encoding='utf-8'),
    long_description_content_type='text/markdown',
    maintainer='vlm_agent_ros maintainers',
    maintainer_email='maintainers@users.noreply.r-seed-8e56c6ac.example',
    license='Apache-2.0',
    packages=find_packages(include=['vlm_agent_ros*', 'sim_worlds*', 'training*']),
    data_files=data_files(),
    python_requires='>=3.10',
    # What the robot needs. Neither a simulator nor the training stack is among it.
    install_requires=[
        'numpy', 'pyyaml', 'pillow', 'torch>=2.4', 'transformers>=5', 'peft>=0.18', 'safetensors',
        'llguidance>=1', 'pin>=3', 'ruckig', 'mcap>=1.6', 'mcap-ros2-support>=0.6', 'zstandard', 'cryptography>=42',
    ],
    extras_require={
        'sim': ['pybullet>=3.2.7', 'gymnasium>=1'],
        'train': ['psutil', 'pyarrow', 'rich', 'tensorboard', 'tokenizers'],
        # ROS 2 Jazzy from wheels, for machines without a ROS installation.
        'ros': ['ros-rclpy[fastrtps]==7.1.6', 'ros-jazzy-common-interfaces'],
        'cluster': ['accelerate>=1', 'ray>=2.40'],  # training on several machines or GPUs
        'bench': ['panda-gym>=3'],  # what `vlm-agent bench` compares the simulated cell with
        'dev': ['mypy', 'pytest', 'pytest-timeout', 'pytest-xdist', 'ruff', 'setuptools>=70.1'],
    },
    entry_points={
        'console_scripts': [
            'agent_node = vlm_agent_ros.nodes.entry:agent_node',
            'gate_node = vlm_agent_ros.nodes.entry:gate_node',
            'audit_node = vlm_agent_ros.nodes.entry:audit_node',
            'cot_viewer = vlm_agent_ros.nodes.entry:cot_viewer',
            'operator = vlm_agent_ros.nodes.entry:operator',
            'world_node = sim_worlds.entry:world_node',
            'cell_emulator = sim_worlds.entry:cell_emulator',
            'trainer = training.cli:trainer',
            'vlm-agent = training.cli:main',
        ],
    },
    zip_safe=True,
)
