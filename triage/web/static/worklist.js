// Keeps the list fresh and adds keys. Without it the page works too: it reloads itself every 30 seconds.
"use strict";

const SETTLE_MS = 300;
const REFRESH_MS = 20000;
const connection = document.getElementById("connection");
let pending = null;
let loading = false;

function keyOf(element) {
  return element instanceof HTMLElement ? element.dataset.key : undefined;
}

function byKey(key) {
  return key ? document.querySelector(`#live [data-key="${CSS.escape(key)}"]`) : null;
}

function focusRow(row) {
  row.tabIndex = -1;
  row.focus();
  row.scrollIntoView({ block: "nearest" });
}

async function refresh() {
  if (loading) {
    schedule();
    return;
  }
  loading = true;
  try {
    const answer = await fetch(location.href, { headers: { Accept: "text/html" } });
    if (answer.redirected) {
      location.assign(answer.url);
      return;
    }
    if (!answer.ok) {
      throw new Error(`status ${answer.status}`);
    }
    const fresh = new DOMParser().parseFromString(await answer.text(), "text/html").getElementById("live");
    const key = keyOf(document.activeElement);
    document.getElementById("live").replaceWith(fresh);
    const again = byKey(key);
    if (again) {
      if (again.tagName === "TR") {
        again.tabIndex = -1;
      }
      again.focus({ preventScroll: true });
    }
  } catch {
    show("not up to date: no answer from the node", true);
  } finally {
    loading = false;
  }
}

function schedule() {
  clearTimeout(pending);
  pending = setTimeout(refresh, SETTLE_MS);
}

function show(text, lost) {
  connection.textContent = text;
  connection.classList.toggle("lost", lost);
}

function listen() {
  show("connecting …", false);
  const events = new EventSource("/api/events");
  events.addEventListener("open", () => {
    show("live", false);
    schedule();
  });
  events.addEventListener("change", schedule);
  events.addEventListener("error", () => {
    show("reconnecting …", true);
    if (events.readyState === EventSource.CLOSED) {
      setTimeout(listen, REFRESH_MS);
    }
  });
}

document.addEventListener("submit", async (event) => {
  const form = event.target;
  if (!form.closest("#live")) {
    return;
  }
  event.preventDefault();
  try {
    const answer = await fetch(form.action, { method: "POST", headers: { Accept: "application/json" } });
    if (!answer.ok) {
      show((await answer.json()).detail, true);
    }
  } catch {
    show("the node does not answer: nothing was changed", true);
  }
  schedule();
});

document.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.altKey || event.metaKey || /^(INPUT|SELECT|TEXTAREA)$/.test(event.target.tagName)) {
    return;
  }
  const rows = [...document.querySelectorAll("#live tr.study")];
  const row = document.activeElement.closest("tr.study");
  const step = { j: 1, ArrowDown: 1, k: -1, ArrowUp: -1 }[event.key];
  if (step && rows.length) {
    const place = row ? rows.indexOf(row) + step : 0;
    focusRow(rows[Math.min(Math.max(place, 0), rows.length - 1)]);
    event.preventDefault();
  } else if (row && event.key === "Enter" && event.target === row) {
    row.querySelector("a.viewer")?.click();
  } else if (row && (event.key === "s" || event.key === "c")) {
    row.querySelector(`[data-key$="|${event.key === "s" ? "stat" : "claim"}"]`)?.click();
  }
});

setInterval(schedule, REFRESH_MS);
listen();
