"""The store's schema as Alembic migrations (tables) and repeatable SQL files (views)."""
