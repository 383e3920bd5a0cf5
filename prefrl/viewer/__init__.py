"""The viewer: people answer in a browser while the policy trains."""
