"""Synthetic street photos with exact masks, for a demo that needs no network: see `scenes.draw_scene`."""
