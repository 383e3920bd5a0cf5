"""The commands of the command line, by subject.

Their modules are imported for `prefrl --help`: what a command needs, it imports when it runs.
"""
