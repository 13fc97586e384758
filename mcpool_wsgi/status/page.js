"use strict";
// Every two seconds, asks for the page again and changes what is different in it.
const EVERY = 2000;
const pause = document.getElementById("pause");
const stale = document.getElementById("stale");
let paused = false;
let timer = 0;

function update(from, to) {
  if (from.nodeName !== to.nodeName) {
    from.replaceWith(to);
  } else if (from.nodeType === Node.TEXT_NODE) {
    if (from.data !== to.data) from.data = to.data;
  } else {
    for (const { name } of [...from.attributes]) {
      if (!to.hasAttribute(name) && name !== "open") from.removeAttribute(name);
    }
    for (const { name, value } of to.attributes) {
      if (from.getAttribute(name) !== value) from.setAttribute(name, value);
    }
    const [here, there] = [[...from.childNodes], [...to.childNodes]];
    here.slice(there.length).forEach((node) => node.remove());
    there.forEach((node, index) => (here[index] ? update(here[index], node) : from.append(node)));
  }
}

async function ask(process) {
  const url = new URL(location.href);
  if (process) url.searchParams.set("process", process);
  else url.searchParams.delete("process");
  const response = await fetch(url, { cache: "no-store", signal: AbortSignal.timeout(10000) });
  if (!response.ok) throw new Error(`${response.status} ${response.statusText}`);
  return response.status === 204 ? null : response.text();
}

// There may be several processes, and any of them may answer. Stay with one while it lives.
// One process may win all requests that come one by one, so several are sent at once.
async function askTheSameProcess() {
  const { process } = document.documentElement.dataset;
  for (const requests of [1, ...Array(20).fill(6)]) {
    const answers = await Promise.all(Array.from({ length: requests }, () => ask(process)));
    const text = answers.find((answer) => answer !== null);
    if (text) return text;
  }
  return ask(null);
}

async function load() {
  const page = new DOMParser().parseFromString(await askTheSameProcess(), "text/html");
  if (!page.getElementById("summary")) throw new Error("another page has answered");
  document.title = page.title;
  document.documentElement.dataset.process = page.documentElement.dataset.process;
  for (const part of [".when", "#summary", "main"]) {
    update(document.querySelector(part), page.querySelector(part));
  }
}

async function refresh() {
  clearTimeout(timer);
  if (!paused && !document.hidden) {
    try {
      await load();
      stale.hidden = true;
    } catch (error) {
      if (stale.hidden) {
        stale.textContent = `This page is no longer up to date: ${error.message}`;
        stale.hidden = false;
      }
    }
  }
  clearTimeout(timer);
  timer = setTimeout(refresh, EVERY);
}

pause.hidden = false;
pause.addEventListener("click", () => {
  paused = !paused;
  pause.textContent = paused ? "Go on" : "Pause";
  if (!paused) refresh();
});
document.addEventListener("visibilitychange", refresh);
timer = setTimeout(refresh, EVERY);
