"""Reads the world and folds what it reads into a Snapshot; never decides anything."""
