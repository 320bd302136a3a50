"""Draw a digit in the browser: python examples/serve.py outputs/main/export/NAME

Teacher and student answer by onnxruntime; kd is not needed. It listens on this machine alone.
"""

import json
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import onnxruntime

PAGE = Path(__file__).with_name("serve.html").read_bytes()
POLICY = "default-src 'none'; connect-src 'self'; script-src 'unsafe-inline'"
POLICY += "; style-src 'unsafe-inline'"
FILES = {"teacher": "teacher.onnx", "student": "student.onnx", "int8": "student.int8.onnx"}


class Handler(BaseHTTPRequestHandler):
    timeout = 10  # seconds, of a client that says nothing

    def do_GET(self):
        known = {"/": ("text/html", PAGE), "/about": ("application/json", about)}
        if self.path not in known:
            return self.send_error(404)
        self.answer(*known[self.path])

    def do_POST(self):  # one byte per pixel, grey
        length = self.headers.get("Content-Length", "")
        if not length.isdecimal() or int(length) != shape[1] * shape[2]:
            return self.send_error(413, f"send {shape[1]} x {shape[2]} bytes")
        grey = np.frombuffer(self.rfile.read(int(length)), np.uint8).reshape(shape[1:])
        images = np.broadcast_to(grey / np.float32(255), (1, *shape))
        found = {k: s.run(["logits"], {"images": images})[0][0] for k, s in sessions.items()}
        told = {name: logits.tolist() for name, logits in found.items()}
        self.answer("application/json", json.dumps(told).encode())

    def answer(self, kind, content):
        self.send_response(200)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(content)))
        self.send_header("Content-Security-Policy", POLICY)
        self.end_headers()
        self.wfile.write(content)


if __name__ == "__main__":
    folder, port = Path(sys.argv[1]), int(sys.argv[2] if len(sys.argv) > 2 else 8000)
    found = {name: folder / file for name, file in FILES.items() if (folder / file).exists()}
    sessions = {name: onnxruntime.InferenceSession(path) for name, path in found.items()}
    shape = sessions["student"].get_inputs()[0].shape[1:]
    names = json.loads(sessions["student"].get_modelmeta().custom_metadata_map["class_names"])
    about = json.dumps({"shape": shape, "classes": names}).encode()
    server = ThreadingHTTPServer(("127.0.0.1", port), Handler)
    print(f"http://127.0.0.1:{server.server_port}", flush=True)
    server.serve_forever()
