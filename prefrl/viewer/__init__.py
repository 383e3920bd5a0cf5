"""The viewer: people answer queries in a browser while the policy trains."""
