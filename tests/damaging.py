"""Files that are no longer what was written."""


def damage(rng, path):
    """Does to a file what disks, people and programs do."""
    content = path.read_bytes()
    kind = rng.choice(["flip", "cut", "empty", "remove", "garbage", "append"])
    if kind == "remove":
        path.unlink()
    elif kind == "flip" and content:
        place, bit = rng.randrange(len(content)), rng.randrange(8)
        path.write_bytes(content[:place] + bytes([content[place] ^ (1 << bit)]) + content[place + 1 :])
    elif kind == "cut" and content:
        path.write_bytes(content[: rng.randrange(len(content))])
    elif kind == "empty":
        path.write_bytes(b"")
    elif kind == "garbage":
        path.write_bytes(rng.randbytes(max(len(content), 10)))
    else:
        path.write_bytes(content + b"x")
    return kind
