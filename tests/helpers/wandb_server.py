"""A W&B server on this machine, as far as a run needs one, that can stall, drop, refuse or die at any moment."""

import contextlib
import json
import re
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class Server:
    """``mood``: «works», «stalls» (takes a request, answers never), «drops» (hangs up), or «500»; change it at any time.

    What arrived: ``seen``, the beginnings of the queries; ``sent``, the rows of the history in the order they came;
    ``rows()``, those the server holds.
    """

    def __init__(self, mood="works"):
        self.mood, self.seen, self.sent, self.streamed, self.stopped = mood, [], [], {}, threading.Event()
        self.http = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"server_": self}))
        self.http.daemon_threads = True
        self.http.handle_error = lambda *_: None  # a client that was killed
        self.url = f"http://127.0.0.1:{self.http.server_address[1]}"
        threading.Thread(target=self.http.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()

    def close(self):
        self.stopped.set()
        self.http.shutdown()
        self.http.server_close()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    def rows(self):
        return [json.loads(line) for _, line in sorted(self.streamed.get("wandb-history.jsonl", {}).items())]


def _answer(url, rows, query, variables):
    project = {"id": "P1", "name": "grafs-timm", "entity": {"id": "E1", "name": "tester"}}
    name = re.search(r"(?:query|mutation)\s+(\w+)", query)
    name = name.group(1) if name else ""
    if "upsertBucket" in query:
        bucket = {
            "id": "B1",
            "name": variables.get("name") or "x",
            "displayName": variables.get("displayName") or "x",
            "description": "",
            "config": "{}",
            "sweepName": None,
            "project": project,
            "historyLineCount": 0,
        }
        return {"upsertBucket": {"bucket": bucket, "inserted": True}}
    if "ResumeStatus" in name:
        bucket = None
        if rows:
            bucket = {
                "id": "B1",
                "name": variables["name"],
                "historyLineCount": len(rows),
                "eventsLineCount": 0,
                "logLineCount": 0,
                "historyTail": json.dumps([json.dumps(rows[-1])]),
                "eventsTail": "[]",
                "summaryMetrics": "{}",
                "config": "{}",
                "tags": [],
                "wandbConfig": '{"t": 1}',
            }
        return {"model": {"id": "P1", "name": "grafs-timm", "entity": project["entity"], "bucket": bucket}}
    if name == "CreateRunFiles":
        files = [{"name": file, "uploadUrl": f"{url}/upload/{file}"} for file in variables["files"]]
        return {"createRunFiles": {"runID": "R1", "uploadHeaders": [], "files": files}}
    if name == "CreateArtifact":
        given = variables["input"]
        artifact = {"id": given["digest"], "state": "COMMITTED", "artifactSequence": {"id": "S1", "latestArtifact": None}}
        return {"createArtifact": {"artifact": artifact}}
    if "viewer" in query:
        return {
            "viewer": {
                "id": "U1",
                "entity": "tester",
                "username": "tester",
                "flags": "{}",
                "email": "t@example.org",
                "teams": {"edges": []},
            }
        }
    return {}


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server_: Server

    def log_message(self, *_):
        pass

    def _serve(self):
        server, mood = self.server_, self.server_.mood
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        if mood == "stalls":
            server.stopped.wait(600)
        if mood in ("stalls", "drops"):
            self.close_connection = True
            with contextlib.suppress(OSError):
                self.connection.close()
            return
        if mood == "500":
            return self._reply(500, {"error": "no"})
        if self.path.endswith("/graphql"):
            asked = json.loads(body)
            server.seen.append(re.sub(r"\s+", " ", asked["query"])[:60])
            return self._reply(200, {"data": _answer(server.url, server.rows(), asked["query"], asked.get("variables") or {})})
        if "file_stream" in self.path:
            for file, chunk in (json.loads(body).get("files") or {}).items():
                lines = server.streamed.setdefault(file, {})
                lines.update(enumerate(chunk["content"], chunk["offset"]))
                if file == "wandb-history.jsonl":
                    server.sent += map(json.loads, chunk["content"])
        server.seen.append(self.path)
        return self._reply(200, {})

    do_GET = do_POST = do_PUT = _serve

    def _reply(self, status, value):
        data = json.dumps(value).encode()
        with contextlib.suppress(OSError):
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)
