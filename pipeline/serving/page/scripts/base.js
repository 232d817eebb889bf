// Elements, storage and texts of others. Everything that a model or a user wrote becomes text (textContent), never HTML.

const $ = (id) => document.getElementById(id);

function el(tag, properties = {}, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) {
    if (name in node) node[name] = value;
    else node.setAttribute(name, value);
  }
  node.append(...children);
  return node;
}

// Invisible characters and those that turn the direction of text, written out as ‹U+202E›, as in pipeline/pages/text.py.
// U+FFFD stays: it shows that an answer was cut off inside a letter.
const UNSEEN = /[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200b\u200e\u200f\u2028-\u202e\u2060\u2066-\u2069\ufeff\ufff9-\ufffc\ufffe\uffff]|[\ud800-\udbff](?![\udc00-\udfff])|(?<![\ud800-\udbff])[\udc00-\udfff]/g;
function visible(text) {
  return text.replace(/\r\n/g, "\n").replace(UNSEEN, (c) => `‹U+${c.charCodeAt(0).toString(16).toUpperCase().padStart(4, "0")}›`);
}

// Shows text of a model or a user, with its language for line breaks and screen readers.
function show(node, text) {
  node.textContent = visible(text);
  node.lang = /[\u1100-\u11ff\u3130-\u318f\uac00-\ud7af]/.test(text) ? "ko" : "";
}

let keeps = true; // whether this browser has storage for the page
function kept(area, name, fallback) {
  try {
    return JSON.parse(window[area].getItem("suri-" + name)) ?? fallback;
  } catch {
    return fallback;
  }
}
function keep(area, name, value) {
  try {
    if (value === null) window[area].removeItem("suri-" + name);
    else window[area].setItem("suri-" + name, JSON.stringify(value));
    return true;
  } catch {
    return false;
  }
}
keeps = keep("localStorage", "probe", 1);

async function copy(text, button) {
  let done = true;
  try {
    await navigator.clipboard.writeText(text); // only on https and on this machine
  } catch {
    const field = el("textarea", { value: text, className: "unseen" });
    document.body.append(field);
    field.select();
    done = document.execCommand("copy");
    field.remove();
    button.focus();
  }
  put(button, done ? "copied" : "not-copied");
  announce(done ? "copied" : "not-copied");
  setTimeout(() => put(button, "copy"), 1600);
}

function download(text, name, type) {
  const link = el("a", { href: URL.createObjectURL(new Blob([text], { type })), download: name });
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 60000);
}

function later(milliseconds, work) {
  let timer = 0;
  return () => {
    clearTimeout(timer);
    timer = setTimeout(work, milliseconds);
  };
}
