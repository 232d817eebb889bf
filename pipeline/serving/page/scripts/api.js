// Requests to the server of this page: JSON and server-sent events, with its token, and with errors of one kind.

class ApiError extends Error {
  // status: of HTTP; 0: the server cannot be reached. code: of the API, such as context_length_exceeded.
  constructor(message, status, code = "", wait = 0) {
    super(message);
    Object.assign(this, { status, code, wait });
  }
}

let token = kept("sessionStorage", "token", "");
function takeTokenOfAddress() {
  const found = new URLSearchParams(location.hash.slice(1)).get("token");
  if (found === null) return;
  token = found;
  keep("sessionStorage", "token", token);
  history.replaceState(null, "", location.pathname + location.search);
}
takeTokenOfAddress();
addEventListener("hashchange", takeTokenOfAddress);

let asking = null; // one dialog for all requests that were refused
function askForToken(wrong) {
  asking ??= new Promise((resolve) => {
    const dialog = $("token-dialog");
    $("token-wrong").hidden = !wrong;
    $("token").value = "";
    dialog.returnValue = "";
    dialog.addEventListener("close", () => {
      const given = dialog.returnValue === "given" ? $("token").value.trim() : "";
      $("token").value = "";
      if (given) {
        token = given;
        keep("sessionStorage", "token", token);
      }
      asking = null;
      resolve(Boolean(given));
    }, { once: true });
    dialog.showModal();
    $("token").focus();
  });
  return asking;
}
$("token-form").addEventListener("submit", (event) => {
  event.preventDefault();
  if ($("token").value.trim()) $("token-dialog").close("given");
});
$("token-cancel").addEventListener("click", () => $("token-dialog").close());

async function request(path, body, signal) {
  for (;;) {
    const sent = token;
    const headers = { ...(body && { "Content-Type": "application/json" }), ...(sent && { Authorization: "Bearer " + sent }) };
    let response;
    try {
      response = await fetch(path, { method: body ? "POST" : "GET", headers, body: body && JSON.stringify(body), signal, cache: "no-store" });
    } catch (error) {
      if (signal?.aborted) throw error;
      throw new ApiError("", 0);
    }
    if (response.ok) return response;
    if (response.status === 401) {
      if (token !== sent || (await askForToken(sent !== ""))) continue;
      throw new ApiError(t("error-token"), 401);
    }
    const reply = await response.json().catch(() => ({}));
    const { message = response.statusText || String(response.status), code = "" } = reply.error || {};
    throw new ApiError(message, response.status, code || "", Number(response.headers.get("Retry-After")) || 0);
  }
}

async function call(path, body, signal) {
  return (await request(path, body, signal)).json();
}

// The chunks of a streamed answer. A letter that comes in two pieces waits for its second one.
async function* stream(path, body, signal) {
  const reader = (await request(path, body, signal)).body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (;;) {
    let piece;
    try {
      piece = await reader.read();
    } catch (error) {
      if (signal.aborted) throw error;
      throw new ApiError("", 0);
    }
    if (piece.done) throw new ApiError("", 0); // no [DONE]: the server ended in the middle
    const lines = (rest + piece.value).split(/\r?\n/);
    rest = lines.pop();
    for (const line of lines) {
      if (!line.startsWith("data:")) continue;
      const data = line.slice(5).trim();
      if (data === "[DONE]") return;
      const chunk = JSON.parse(data);
      if (chunk.error) throw new ApiError(chunk.error.message, 500, chunk.error.code || "");
      yield chunk;
    }
  }
}
