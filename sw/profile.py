def add_parser(s):
    s.add_parser("profile")
