"""What people see: heat maps and report pages."""
