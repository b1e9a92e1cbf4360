"""Hand over to setup.cfg, where everything is declared."""

from setuptools import setup

setup()
