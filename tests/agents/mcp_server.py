"""A server of one tool, over stdin and stdout."""

import os
from pathlib import Path

from mcp.server.mcpserver import MCPServer

server = MCPServer("stock")


@server.tool()
def in_stock(item: str) -> str:
    """How many there are."""
    with Path(os.environ["STOCK_CALLS"]).open("a") as calls:
        calls.write(f"{item}\n")
    return f"7 of {item}"


if __name__ == "__main__":
    server.run()
