// The page: asks the server twice a second how things stand, and shows each clip as a card.

import { compare, element } from "./compare.js";

const $ = (id) => document.getElementById(id);
const STATES = { draft: "Ready to start", waiting: "Waiting for its turn", running: "Working", paused: "Paused", done: "Done", failed: "Failed" };
const EXPLAINED = {
  smoother: "More frames a second; repeated drawings are spaced evenly.",
  rescue: "Blurred and shaken frames are sharpened, then more frames made.",
  slowmo: "Plays slower, with frames made in between; sound is stretched.",
};
const EVERY = 500; // ms
const PICTURE = 10_000; // ms between pictures of a running job
let setup;
const answered = fetch("/api/setup").then(async (answer) => { setup = await answer.json(); });
const cards = new Map();

// talking to the server

async function ask(path, given) {
  const answer = await fetch(path, { method: "POST", body: JSON.stringify(given ?? {}) });
  if (answer.status === 401) location.reload();
  if (!answer.ok) throw new Error(await answer.text());
  return answer.json();
}

async function act(id, action, given) {
  try {
    complain("");
    show((await ask(`/api/jobs/${id}/${action}`, given)).jobs);
  } catch (error) {
    complain(error.message);
  }
}

function complain(text) {
  $("problem").textContent = text;
  $("problem").hidden = !text;
}

async function refresh() {
  try {
    const answer = await fetch("/api/state");
    if (answer.status === 401) return location.reload();
    show((await answer.json()).jobs);
    $("offline").hidden = true;
  } catch {
    $("offline").hidden = false; // and asked again
  }
  setTimeout(refresh, document.hidden ? 4 * EVERY : EVERY);
}

let uploads = answered; // one after the other, in the order chosen; the first waits for what the server takes

function upload(file) {
  const bar = element("progress", { max: 1, value: 0, ariaLabel: `Upload of ${file.name}` });
  const stop = element("button", { className: "quiet", type: "button" }, "Stop");
  const item = element("li", {}, file.name, bar, stop);
  $("uploads").append(item);
  const refuse = (why) => item.replaceChildren(
    element("p", { className: "problem", role: "alert" }, why),
    element("button", { className: "quiet", type: "button", onclick: () => item.remove() }, "Dismiss"));
  const request = new XMLHttpRequest(); // fetch cannot tell how far an upload is
  uploads = uploads.then(() => new Promise((end) => {
    if (!item.isConnected) return end();
    if (file.size > setup.largest) {
      refuse(`${file.name} is larger than ${size(setup.largest)}, the largest upload. Put it below a --folder, or raise --max-upload.`);
      return end();
    }
    request.upload.addEventListener("progress", (event) => { bar.value = event.loaded / event.total; });
    request.addEventListener("load", () => (request.status === 200 ? item.remove() : refuse(request.responseText)));
    request.addEventListener("error", () => refuse(`${file.name}: the upload broke off.`));
    request.addEventListener("loadend", end);
    request.open("POST", `/api/upload?name=${encodeURIComponent(file.name)}`);
    request.send(file);
  }));
  stop.addEventListener("click", () => { request.abort(); item.remove(); });
}

// words

const plural = (count, word) => `${count} ${word}${count === 1 ? "" : "s"}`;
function size(bytes) {
  for (const unit of ["B", "kB", "MB"]) {
    if (bytes < 1000) return `${Number(bytes.toPrecision(3))} ${unit}`;
    bytes /= 1000;
  }
  return `${Number(bytes.toPrecision(3))} GB`;
}
function number(text) { // "2.5", "5/2" or "1:02:03.5", as the command line takes them
  const [over, under = "1"] = text.split("/");
  return over.split(":").reduce((sum, each) => sum * 60 + Number(each), 0) / Number(under);
}
function clock(seconds) {
  if (seconds < 60) return `${seconds < 10 ? seconds.toFixed(1) : Math.round(seconds)} s`;
  const whole = Math.round(seconds), two = (n) => String(n).padStart(2, "0");
  const hours = Math.floor(whole / 3600), minutes = Math.floor(whole / 60) % 60;
  return hours ? `${hours}:${two(minutes)}:${two(whole % 60)} h` : `${minutes}:${two(whole % 60)} min`;
}
function progressText(now) {
  if (!now.total) return "Getting ready …";
  if (now.stage === "joining") return "Joining and checking the file …";
  const pace = now.done >= 8 ? `, ${now.rate.toFixed(1)} frames/s, ${clock(now.eta)} left` : "";
  return `frame ${now.done} of ${now.total}${pace}`;
}

// cards: a part is built anew only when what it shows has changed, so that a video goes on and the focus stays

function show(jobs) {
  $("empty").hidden = jobs.length > 0;
  $("start-all").hidden = jobs.filter((job) => job.state === "draft" && job.tasks.look?.state === "done").length < 2;
  for (const [id, card] of cards) {
    if (!jobs.some((job) => job.id === id)) { card.node.remove(); cards.delete(id); }
  }
  jobs.forEach((job, at) => {
    let card = cards.get(job.id);
    if (!card) {
      card = { parts: {}, node: element("article", { className: "card clip" }) };
      card.node.setAttribute("aria-label", job.name);
      cards.set(job.id, card);
    }
    if ($("clips").children[at] !== card.node) $("clips").insertBefore(card.node, $("clips").children[at] ?? null);
    fill(card, job, at, jobs.length);
  });
}

function part(card, name, signature, build) {
  const key = JSON.stringify(signature);
  const old = card.parts[name];
  if (old?.key === key) return old.node;
  const node = signature === null ? null : build();
  const shown = node ?? element("div", { hidden: true });
  if (old) old.node.replaceWith(shown);
  else card.node.append(shown);
  card.parts[name] = { key, node: shown };
  return shown;
}

function fill(card, job, at, count) {
  const look = job.tasks.look, known = look?.state === "done", draft = job.state === "draft";
  const button = (text, action, more = {}) => element("button", { type: "button", onclick: () => act(job.id, action), ...more }, text);
  const state = look?.state === "failed" ? "failed" : job.state;

  part(card, "head", [state, known, at, count], () => element("div", { className: "head" },
    element("div", {}, element("h3", {}, job.name),
      element("p", { className: `state ${state}` }, look?.state === "failed" ? "Cannot be used" : known ? STATES[state] : "Looking at it …")),
    element("div", { className: "buttons" },
      button("↑", "up", { className: "quiet icon", ariaLabel: `Move ${job.name} up`, title: "Move up", disabled: at === 0 }),
      button("↓", "down", { className: "quiet icon", ariaLabel: `Move ${job.name} down`, title: "Move down", disabled: at === count - 1 }),
      element("button", {
        type: "button", className: "quiet", ariaLabel: `Remove ${job.name}`,
        onclick: () => { if (job.state !== "done" || confirm(`Remove ${job.name} and its result?`)) act(job.id, "remove"); },
      }, "Remove"))));

  part(card, "problem", job.error || look?.error || null, () => element("p", { className: "problem", role: "alert" }, job.error || look.error));
  part(card, "words", known ? look.found.words : null, () => element("ul", { className: "words" }, ...look.found.words.map((each) => element("li", {}, each))));

  part(card, "setup", known && draft ? 1 : null, () => chooser(card, job));
  if (known && draft) card.settle(job);
  part(card, "place", known && draft ? 1 : null, () => place(job));
  preview(card, job);

  const estimate = draft ? job.tasks.estimate : null;
  part(card, "estimate", estimate ? [estimate.state, estimate.error, estimate.found] : null, () => {
    if (estimate.state === "failed") return element("p", { className: "problem", role: "alert" }, estimate.error);
    if (estimate.state !== "done") return element("p", { className: "muted" }, "Estimating time and size …");
    const found = estimate.found;
    return element("p", { className: "estimate" }, `Becomes ${plural(found.frames_out, "frame")} at ${found.fps_out} a second, takes about ${clock(found.seconds)}, file of about ${size(found.size)}.`);
  });

  const actions = {
    draft: known ? [button("Start", "start", { className: "primary" })] : [],
    waiting: [button("Pause", "pause"), button("Cancel", "cancel")],
    running: [button("Pause", "pause"), button("Cancel", "cancel")],
    paused: [button("Go on", "start", { className: "primary" }), button("Cancel", "cancel")],
    failed: [button("Try again", "start", { className: "primary" }), button("Change options", "cancel")],
    done: [
      element("a", { className: "button primary", href: `/media/${job.id}/result?download` }, `Download ${job.result ? size(job.result.size) : ""}`),
      button("Report", "report", { disabled: ["waiting", "running"].includes(job.tasks.report?.state), title: "Hides every other frame of the clip, rebuilds it and compares" }),
      button("Change options and redo", "cancel"),
    ],
  }[job.state];
  const working = ["running", "paused"].includes(job.state);
  const work = part(card, "work", working ? job.state : null, () => element("div", { className: "work" },
    element("img", { alt: "The last finished frame", hidden: true, onload: (event) => { event.target.hidden = false; }, onerror: (event) => { event.target.hidden = true; } }),
    element("div", {}, element("progress", { max: 1, ariaLabel: `Progress of ${job.name}` }), element("p", { className: "muted" }))));
  if (working) {
    const now = job.progress, bar = work.querySelector("progress"), image = work.querySelector("img");
    if (now.total) bar.value = now.done / now.total; else bar.removeAttribute("value");
    work.querySelector("p").textContent = job.state === "paused" ? `Paused${now.total ? ` at frame ${now.done} of ${now.total}` : ""}; goes on from what is done.` : progressText(now);
    const turn = Math.floor(Date.now() / PICTURE);
    if (job.state === "running" && now.done && card.turn !== turn) { card.turn = turn; image.src = `/media/${job.id}/frame?${turn}`; }
  }
  result(card, job);
  part(card, "actions", [job.state, known, job.tasks.report?.state, job.result?.size], () => element("div", { className: "buttons" }, ...actions));
  const report = job.tasks.report;
  part(card, "report", report ? [report.state, report.error] : null, () => {
    if (report.state === "failed") return element("p", { className: "problem", role: "alert" }, report.error);
    if (report.state !== "done") return element("p", { className: "muted" }, "Writing the report: every other frame is hidden and rebuilt …");
    return element("p", {}, element("a", { href: `/media/${job.id}/report`, target: "_blank" }, "Open the report"), " (in a new tab)");
  });
}

// what to do

function chooser(card, job) {
  const found = job.tasks.look.found;
  const radios = Object.entries(setup.intents).map(([intent, title]) => element("label", {},
    element("input", { type: "radio", name: `intent-${job.id}`, value: intent, onchange: () => choose({ ...found.intents[intent] }, intent) }),
    element("b", {}, title + (intent === found.suggested ? " (suggested)" : "")),
    element("span", { className: "muted" }, EXPLAINED[intent])));
  const inputs = {};
  const panels = Map.groupBy(setup.fields, (field) => field.panel);
  const grid = element("div", { className: "options" });
  const target = element("select", { id: `target-${job.id}`, onchange: () => choose(values(), card.intent) },
    ...setup.targets.map((each) => element("option", { value: each }, each)));
  grid.append(element("div", {}, element("label", { htmlFor: target.id }, "Kind of file"), target));
  for (const [panel, fields] of panels) {
    if (panel) grid.append(element("h4", {}, panel));
    for (const field of fields) {
      const id = `${field.name}-${job.id}`, change = () => choose(values(), card.intent);
      const usual = field.default === "" ? "as it comes" : `${field.default} (as usual)`;
      const input = field.choices.length
        ? element("select", { id, onchange: change }, element("option", { value: "" }, usual), ...field.choices.filter((each) => each !== field.default).map((each) => element("option", { value: each }, each)))
        : element("input", { id, type: "text", placeholder: field.default, autocomplete: "off", spellcheck: false, onchange: change });
      input.setAttribute("aria-describedby", `${id}-help`);
      inputs[field.name] = input;
      grid.append(element("div", {}, element("label", { htmlFor: id }, field.name.replaceAll("_", " ")), input, element("span", { className: "muted", id: `${id}-help` }, field.help)));
    }
  }
  const values = () => Object.fromEntries(Object.entries(inputs).map(([name, input]) => [name, input.value.trim()]).filter(([, value]) => value));
  const choose = (options, intent) => act(job.id, "choose", { options, intent, suffix: target.value });
  card.settle = (now) => {
    const key = JSON.stringify([now.options, now.intent, now.suffix]);
    if (card.settled === key && card.chooser === whole) return;
    card.settled = key; card.chooser = whole; card.intent = now.intent;
    for (const radio of radios) radio.querySelector("input").checked = radio.querySelector("input").value === now.intent;
    target.value = now.suffix;
    for (const [name, input] of Object.entries(inputs)) {
      const field = setup.fields.find((each) => each.name === name), value = now.options[name] ?? "";
      if (document.activeElement !== input || value) input.value = field.choices.length && value === field.default ? "" : value;
    }
  };
  const whole = element("div", {}, element("fieldset", {}, element("legend", {}, "What should it become?"), element("div", { className: "choices" }, ...radios)),
    element("details", {}, element("summary", {}, "All options"), grid));
  return whole;
}

function place(job) {
  const { duration } = job.tasks.look.found.facts;
  const latest = Math.max(0, duration - setup.shown);
  const time = element("output", { className: "time" });
  const range = element("input", { type: "range", id: `place-${job.id}`, min: 0, max: latest.toFixed(2), step: 0.1, value: (latest / 3).toFixed(1), oninput: () => tell() });
  const source = element("video", { src: `/media/${job.id}/source`, muted: true, playsInline: true, preload: "metadata", tabIndex: -1, ariaHidden: "true", onerror: () => source.remove() });
  const tell = () => { time.textContent = clock(Number(range.value)); source.currentTime = Number(range.value); };
  tell();
  const whole = element("div", { className: "place" }, element("label", { htmlFor: range.id }, `See ${setup.shown} seconds of it first, from`), source, range, time,
    element("div", { className: "buttons" }, element("button", { type: "button", onclick: () => act(job.id, "preview", { at: Number(range.value) }) }, "Preview")));
  if (latest === 0) range.disabled = true;
  return whole;
}

function preview(card, job) {
  const task = job.state === "draft" ? job.tasks.preview : null;
  const now = part(card, "preview", task ? [task.state, task.error, task.at] : null, () => {
    if (task.state === "failed") return element("p", { className: "problem", role: "alert" }, task.error);
    if (task.state !== "done") return element("div", {}, element("progress", { max: 1, ariaLabel: `Preview of ${job.name}` }), element("p", { className: "muted" }));
    const at = `?${encodeURIComponent(JSON.stringify([task.at, job.options]))}`;
    const shown = element("div", {});
    shown.append(compare({
      before: `/media/${job.id}/preview-before${at}`, after: `/media/${job.id}/preview-after${at}`, fps: parseFloat(task.found.fps_out),
      slow: number(task.slow), mapped: (number) => `/media/${job.id}/map-${number}${at}`, name: job.name,
      failed: () => shown.replaceChildren(element("p", { className: "problem" }, "This browser cannot play the preview.")),
    }));
    return shown;
  });
  if (task && !["done", "failed"].includes(task.state)) {
    const bar = now.querySelector("progress"), { done, total } = task.progress;
    if (total) bar.value = done / total; else bar.removeAttribute("value");
    now.querySelector("p").textContent = task.state === "waiting" ? "The preview waits for another to end …" : total ? `Making the preview: frame ${done} of ${total}` : "Making the preview …";
  }
}

// what it became

function result(card, job) {
  const done = job.state === "done" && job.result, copies = job.tasks.copies;
  part(card, "result", done ? [job.result.size, copies?.state, copies?.error] : null, () => {
    const whole = element("div");
    const slow = number(job.options.slowmo ?? "1"), start = number(job.options.start ?? "0"), fps = parseFloat(job.result.fps_out);
    if (copies?.state === "failed") whole.append(element("p", { className: "problem" }, copies.error));
    else if (copies && copies.state !== "done") whole.append(element("p", { className: "muted" }, "This browser cannot play it as it is: making a copy that it can …"));
    else {
      const ready = copies?.state === "done";
      const [before, after] = (ready ? ["copies-before", "copies-after"] : ["source", "result"]).map((each) => `/media/${job.id}/${each}?${job.result.size}`);
      whole.append(compare({
        before, after, fps, slow, start: ready ? 0 : start, name: job.name,
        failed: () => (ready ? whole.replaceChildren(element("p", { className: "problem" }, "This browser cannot play it; download it.")) : act(job.id, "copies")),
      }));
    }
    return whole;
  });
  part(card, "proof", done ? job.proof : null, () => element("div", {}, element("h4", {}, "What was done"), element("ul", { className: "words proof" }, ...job.proof.map((each) => element("li", {}, each)))));
}

// beginning

function listen() {
  const chosen = () => { [...$("files").files].forEach(upload); $("files").value = ""; };
  $("files").addEventListener("change", chosen);
  chosen(); // what was chosen before this script came
  const drop = $("drop");
  for (const event of ["dragenter", "dragover"]) drop.addEventListener(event, (e) => { e.preventDefault(); drop.classList.add("over"); });
  for (const event of ["dragleave", "drop"]) drop.addEventListener(event, () => drop.classList.remove("over"));
  drop.addEventListener("drop", (event) => { event.preventDefault(); [...event.dataTransfer.files].forEach(upload); });
  $("by-path").addEventListener("submit", async (event) => {
    event.preventDefault();
    try {
      complain("");
      await ask("/api/add", { path: $("path").value });
      $("path").value = "";
    } catch (error) {
      complain(error.message);
    }
  });
  $("start-all").addEventListener("click", async () => {
    const { jobs } = await (await fetch("/api/state")).json();
    for (const job of jobs) if (job.state === "draft" && job.tasks.look?.state === "done") await act(job.id, "start");
  });
}

listen();
await answered;
$("version").textContent = `fpsGAN ${setup.version}.`;
$("limit").textContent = `up to ${size(setup.largest)} each`;
$("logout").hidden = !setup.password;
$("by-path").hidden = !setup.paths;
refresh();
