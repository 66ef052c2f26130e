"""Tests, by what they need: unit, integration, sim, conformance, fuzz, lab, bench."""
