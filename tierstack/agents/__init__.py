"""What runs on hosts: ordinary modules without a package of theirs there, standard library only."""
