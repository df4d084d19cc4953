"""Strategies of density control: how the gaussians of a fit grow, move and leave."""

from splat.strategies.base import Refined, ScreenStatistics, Strategy
from splat.strategies.default import DefaultStrategy
from splat.strategies.mcmc import McmcStrategy


__all__ = ["DefaultStrategy", "McmcStrategy", "Refined", "ScreenStatistics", "Strategy"]
