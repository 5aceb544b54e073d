"""What stands in the sites and how power goes through it: the typed document, its checks and its picture.

Nothing here needs a database or YAML: api/topology reads files and keeps the document in the store.
"""
