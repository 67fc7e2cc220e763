"""Two more MongoClients in the master, beside an app that makes one: `shared-py-import`."""

import os
from typing import Any

from pymongo import MongoClient

CLIENTS: list[MongoClient[Any]] = [MongoClient(os.environ["MONGO_URI"]) for _ in range(2)]
