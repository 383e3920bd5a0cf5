"""From the names that a user gives to environments, and to code of their own."""
