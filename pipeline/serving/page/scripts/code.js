// The question on the page as lines of curl, Python and JavaScript, with this server's address.

let codeLanguage = "curl";
const KNOWN = ["model", "messages", "max_tokens", "temperature", "top_p", "seed"]; // arguments of OpenAI's client

const writers = {
  curl(body) {
    const quoted = JSON.stringify(body, null, 2).replace(/'/g, "'\\''");
    const secret = token ? `  -H "Authorization: Bearer $SURI_TOKEN" \\\n` : "";
    return `curl ${location.origin}/v1/chat/completions \\\n  -H 'Content-Type: application/json' \\\n${secret}  -d '${quoted}'`;
  },
  python(body) {
    const known = KNOWN.filter((name) => name in body).map((name) => `    ${name}=${JSON.stringify(body[name])},\n`).join("");
    const others = Object.fromEntries(Object.entries(body).filter(([name]) => !KNOWN.includes(name)));
    const extra = Object.keys(others).length ? `    extra_body=${JSON.stringify(others)},\n` : "";
    const key = token ? 'os.environ["SURI_TOKEN"]' : '"none"';
    return [
      ...(token ? ["import os", ""] : []), "from openai import OpenAI", "",
      `client = OpenAI(base_url="${location.origin}/v1", api_key=${key})`,
      `chunks = client.chat.completions.create(\n${known}${extra}    stream=True,\n)`,
      "for chunk in chunks:", "    if chunk.choices:",
      '        print(chunk.choices[0].delta.content or "", end="", flush=True)',
    ].join("\n");
  },
  javascript(body) {
    const secret = token ? `, Authorization: "Bearer " + process.env.SURI_TOKEN` : "";
    return [
      `const reply = await fetch("${location.origin}/v1/chat/completions", {`, '  method: "POST",',
      `  headers: { "Content-Type": "application/json"${secret} },`,
      `  body: JSON.stringify(${JSON.stringify(body, null, 2).replace(/\n/g, "\n  ")}),`, "});",
      "const answer = await reply.json();", "console.log(answer.choices[0].message.content);",
    ].join("\n");
  },
};
function showCode() {
  if (!$("code").open) return;
  const example = document.querySelector(".example span")?.textContent || "Hello";
  const question = isEmpty() ? { instruction: example, input: "" } : draft;
  $("code-text").textContent = writers[codeLanguage](requestOf(sides.a.model, question, settings));
}
const chooseCode = tabs(document.querySelector("#code .tabs"), (tab) => {
  codeLanguage = tab.id.slice(4);
  $("code-text").setAttribute("aria-labelledby", tab.id);
  showCode();
});
$("code").addEventListener("toggle", showCode);
addEventListener("question", showCode);
$("copy-code").addEventListener("click", () => copy($("code-text").textContent, $("copy-code")));
