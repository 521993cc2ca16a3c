"""The checks of ``ctl doctor``: each has a fault that makes it fail, and a case that is well."""
