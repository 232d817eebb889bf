// One answer while it comes, and after: the same for A, B and the turns of a chat.

// end: "" (none), waiting, streaming, stop, length, timeout, stopped, interrupted, gone or error.
const BLANK = { model: "", text: "", tokens: 0, exact: true, seconds: 0, end: "", problem: "", wait: 0 };
const isRunning = (answer) => answer.end === "waiting" || answer.end === "streaming";
const isCut = (answer) => answer.text !== "" && ["length", "timeout", "stopped", "interrupted", "gone"].includes(answer.end);
let leaving = false; // the browser breaks connections before it says pagehide
addEventListener("beforeunload", () => {
  leaving = true;
  setTimeout(() => (leaving = false), 3000); // the user may have stayed
});
const TRIES = 6; // of a server that is busy

class Stream {
  // changed(answer): called for every piece.
  constructor(changed) {
    this.changed = changed;
    this.answer = { ...BLANK };
    this.control = null;
  }
  get running() {
    return isRunning(this.answer);
  }
  // body: without its stream. more: whether the answer goes on behind what is there.
  async run(body, more = false) {
    const before = more ? this.answer : BLANK;
    this.answer = { ...BLANK, model: body.model, text: before.text, tokens: before.tokens, exact: before.exact, end: "waiting" };
    this.control = new AbortController();
    this.began = performance.now();
    this.before = before.seconds;
    this.changed(this.answer);
    const ticking = setInterval(() => this.tick(), 100);
    try {
      await this.read({ ...body, stream: true, stream_options: { include_usage: true } });
    } catch (error) {
      this.fail(error);
    } finally {
      clearInterval(ticking);
      this.answer.seconds = this.before + (performance.now() - this.began) / 1000;
      this.changed(this.answer);
    }
    return this.answer;
  }
  tick() {
    this.answer.seconds = this.before + (performance.now() - this.began) / 1000;
    this.changed(this.answer);
  }
  async read(body) {
    const { answer, control } = this;
    const before = answer.tokens;
    for (let left = TRIES; ; left -= 1) {
      try {
        for await (const chunk of stream("/v1/chat/completions", body, control.signal)) {
          const choice = chunk.choices?.[0];
          if (choice?.delta?.content) {
            answer.text += choice.delta.content;
            answer.end = "streaming";
            if (!chunk.usage) Object.assign(answer, { tokens: answer.tokens + 1, exact: false }); // a piece is a token or more
          }
          if (choice?.finish_reason) answer.end = choice.stop_reason === "timeout" ? "timeout" : choice.finish_reason === "length" ? "length" : "stop";
          if (chunk.usage) Object.assign(answer, { tokens: before + chunk.usage.completion_tokens, exact: true });
        }
        if (isRunning(answer)) answer.end = "stop";
        return;
      } catch (error) {
        if (error.status !== 503 || left <= 1 || answer.end !== "waiting") throw error;
        await this.pause(Math.min(error.wait || 1, 30));
      }
    }
  }
  async pause(seconds) {
    for (let left = Math.ceil(seconds); left > 0; left -= 1) {
      this.answer.wait = left;
      this.changed(this.answer);
      await new Promise((resolve, reject) => {
        const timer = setTimeout(resolve, 1000);
        this.control.signal.addEventListener("abort", () => (clearTimeout(timer), reject(this.control.signal.reason)), { once: true });
      });
    }
    this.answer.wait = 0;
  }
  fail(error) {
    const { answer } = this;
    if (this.control.signal.aborted) answer.end = "stopped";
    else if (leaving) answer.end = "interrupted";
    else if (error instanceof ApiError && error.status === 0) {
      answer.end = "gone";
      setState("gone");
      watch();
    } else Object.assign(answer, { end: "error", problem: error.message, code: error.code || "" });
  }
  stop() {
    if (this.running) this.control.abort();
  }
}

// What an answer says of itself: `42 tokens · 1.3 s · 32 tokens/s · ended by itself`.
function facts(answer) {
  const parts = [];
  if (answer.tokens) parts.push(t(answer.exact ? "tokens" : "tokens-about", { n: answer.tokens }));
  if (answer.seconds) parts.push(secondsText(answer));
  if (answer.tokens && answer.seconds > 0.2 && answer.exact) parts.push(t("speed", { n: (answer.tokens / answer.seconds).toFixed(1) }));
  if (answer.end && answer.end !== "waiting") parts.push(t("end-" + answer.end));
  return parts.map((part) => part.replace(/ /g, "\u00a0")).join(" · "); // lines break between parts
}
function secondsText(answer) {
  return t("seconds", { n: answer.seconds.toFixed(1) });
}
// Tells a screen reader how an answer ended; its text can be read when the listener wants it.
function announceAnswer(answer, letter) {
  const values = { letter, end: () => t("end-" + answer.end), tokens: () => t("tokens", { n: answer.tokens }), seconds: () => secondsText(answer) };
  announce("answered", values);
}
function waitingText(answer) {
  return answer.wait ? t("busy", { seconds: answer.wait }) : t("waiting");
}
function problemText(answer) {
  return t("error", { message: visible(answer.problem) });
}
