"""Offline training with peft and torch: adapters that are pushed towards one pole of the choices."""
