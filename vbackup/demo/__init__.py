"""The whole story on a sandbox: data, writers, backup, disaster, restore, proof."""
