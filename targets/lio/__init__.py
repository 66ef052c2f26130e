"""The kernel's target as a front end: the TCMU ring and the plan of its configfs tree."""
