"use strict";
(() => {
  const RECENT = 20; // turns over which the running accuracy is taken
  const CUT = 4000; // characters of a text shown at first
  const MORE = 40000; // and how many more each time
  const NARROW = 560; // chart width in pixels below which names are cut
  const MOST_HELD = 240; // maximum number of thumbnails drawn at once
  const at = (id) => document.getElementById(id);

  // ---- embedded data ----

  async function unpacked(id) {
    const bytes = Uint8Array.from(atob(at(id).textContent), (mark) => mark.charCodeAt(0));
    const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
    return JSON.parse(await new Response(stream).text());
  }

  const held = new Map();
  function opened(id) {
    if (!held.has(id)) held.set(id, unpacked(id));
    return held.get(id);
  }

  // Invisible characters and those that reorder text are shown by their code point.
  const HIDDEN = /[\u0000-\u0008\u000b-\u001f\u007f-\u009f\u00ad\u061c\u200b-\u200f\u2028-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb]/g;
  const plain = (text) =>
    text.replace(HIDDEN, (mark) => `\u27e8U+${mark.charCodeAt(0).toString(16).toUpperCase().padStart(4, "0")}\u27e9`);

  function element(name, properties = {}, ...children) {
    const made = Object.assign(document.createElement(name), properties);
    made.append(...children);
    return made;
  }

  // ---- charts ----

  const tip = element("div", { id: "tip", hidden: true });
  document.body.append(tip);

  // Shows the values of a mark, always as text.
  function tell(_handler, event, _item, value) {
    tip.hidden = value === null || value === undefined || value === "";
    if (tip.hidden) return;
    const rows = typeof value === "object" ? Object.entries(value) : [["", value]];
    tip.replaceChildren(...rows.map(([name, said]) =>
      element("div", {}, element("span", { textContent: `${name} ` }), element("b", { textContent: plain(String(said)) }))));
    const { width, height } = tip.getBoundingClientRect();
    tip.style.left = `${Math.max(4, Math.min(event.clientX + 12, innerWidth - width - 4))}px`;
    tip.style.top = `${Math.max(4, Math.min(event.clientY + 12, innerHeight - height - 4))}px`;
  }

  const DRAWING = {
    mode: "vega-lite", ast: true, renderer: "svg", actions: false, defaultStyle: false,
    tooltip: tell,
  };

  // On narrow screens, names are shortened to leave room for the lines.
  function narrowed(chart, width) {
    if (width >= NARROW || !chart.layer) return chart;
    const layer = chart.layer.map((each) =>
      each.mark && each.mark.limit ? { ...each, mark: { ...each.mark, limit: 0.32 * width, dir: "rtl" } } : narrowed(each, width));
    return { ...chart, layer };
  }

  async function draw(place) {
    const name = place.dataset.figure;
    const choice = document.querySelector(`select[data-figure="${name}"]`);
    const found = await opened(`figure-${name}`);
    const result = await vegaEmbed(place, narrowed(choice ? found[choice.value] : found, place.clientWidth), DRAWING);
    place.dataset.drawn = choice ? choice.value : "yes";
    return result;
  }

  async function drawAll() {
    for (const place of document.querySelectorAll(".chart")) await draw(place);
    for (const choice of document.querySelectorAll("select[data-figure]")) {
      const place = document.querySelector(`.chart[data-figure="${choice.dataset.figure}"]`);
      choice.addEventListener("change", () => draw(place));
    }
  }

  // ---- sessions ----

  const index = JSON.parse(at("index").textContent);
  const state = { session: null, pool: null, path: [], place: 0, thumbs: new Map(), running: [] };

  const armOf = (entry) => {
    const several = new Set(index.map((each) => each.experiment)).size > 1;
    return several ? `${entry.experiment} / ${entry.arm}` : entry.arm;
  };

  function options(select, texts) {
    const before = select.value;
    select.replaceChildren(...texts.map(([value, text]) => element("option", { value, textContent: text })));
    if (texts.some(([value]) => value === before)) select.value = before;
  }

  function chooseArm() {
    const mine = index.filter((entry) => armOf(entry) === at("arm").value);
    options(at("stream"), mine.map((entry) => [
      String(entry.stream),
      `${entry.stream} (${entry.turns} of ${entry.planned} turns, ${entry.status})`,
    ]));
    return chooseStream();
  }

  const chosen = () => index.find((each) => armOf(each) === at("arm").value && String(each.stream) === at("stream").value);

  async function chooseStream() {
    const entry = chosen();
    const [session, pool] = await Promise.all([opened(entry.blob), opened(entry.pool)]);
    if (entry !== chosen()) return; // another session was chosen meanwhile
    const turn = state.path[state.place] ?? 0;
    Object.assign(state, { session, pool, thumbs: new Map(), running: runningOf(session.correct) });
    options(at("filter"), [
      ["all", "all turns"], ["errors", "only errors"],
      ...session.labels.map((label, place) => [`label-${place}`, `label ${plain(label)}`]),
    ]);
    state.part = state.note = undefined;
    state.origin = besides().begins.map((begin) => ` From turn ${begin.at} on: ${branchOf(begin)}.`).join("");
    drawRunning();
    listBeside();
    chooseFilter(turn);
  }

  function chooseFilter(turn) {
    const { session } = state;
    const wanted = at("filter").value;
    const label = wanted.startsWith("label-") ? session.labels[Number(wanted.slice(6))] : null;
    const every = session.correct.map((_, place) => place);
    state.path = every.filter((place) =>
      wanted === "errors" ? !session.correct[place] : label === null || session.label[place] === label);
    at("turn").max = String(Math.max(0, state.path.length - 1));
    const near = state.path.findIndex((place) => place >= turn);
    go(near < 0 ? state.path.length - 1 : near);
  }

  function runningOf(correct) {
    let right = 0;
    return correct.map((each, place) => {
      right += each - (place >= RECENT ? correct[place - RECENT] : 0);
      return right / Math.min(place + 1, RECENT);
    });
  }

  const SVG = "http://www.w3.org/2000/svg";
  function shape(name, attributes) {
    const made = document.createElementNS(SVG, name);
    for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
    return made;
  }

  function drawRunning() {
    const last = Math.max(1, state.running.length - 1);
    const points = state.running.map((value, place) => `${(1000 * place) / last},${100 - 100 * value}`).join(" ");
    const drawing = shape("svg", { viewBox: "0 0 1000 100", preserveAspectRatio: "none", "aria-hidden": "true" });
    const fine = { "vector-effect": "non-scaling-stroke", fill: "none" };
    for (const y of [0, 50, 100]) drawing.append(shape("line", { x1: 0, x2: 1000, y1: y, y2: y, stroke: "var(--rule)", ...fine }));
    drawing.append(shape("polyline", { points, stroke: "var(--accent)", "stroke-width": 2, ...fine }));
    drawing.append(...marksBeside());
    state.cursor = shape("line", { y1: -4, y2: 104, stroke: "var(--ink)", "stroke-width": 2, ...fine });
    drawing.append(state.cursor);
    at("running").replaceChildren(...namesBeside(), drawing);
  }

  // ---- between turns: notes, probes and starts of branches ----

  const among = (after) => Math.min(after, state.session.correct.length - 1); // the turn at which it is shown
  const acrossOf = (after) => (1000 * among(after)) / Math.max(1, state.session.correct.length - 1);
  const branchOf = (begin) => `branch of ${plain(begin.of)} begins here`;
  const besides = () => ({ begins: [], notes: [], probes: [], ...state.session });
  const sum = (numbers) => numbers.reduce((total, each) => total + each, 0);
  const rightOf = (check) => `${sum(check.correct)} of ${check.correct.length} probes right`;

  const UNDRAWN = "Transcripts hold no pictures of probes, and the data were not at hand when this page was made.";

  function marksBeside() {
    const { begins, notes, probes } = besides();
    const fine = { "vector-effect": "non-scaling-stroke", fill: "none" };
    const upright = (x, from, how) => shape("line", { x1: x, x2: x, y1: from, y2: 104, ...fine, ...how });
    return [
      ...notes.map((note) => upright(acrossOf(note.after), 90, { stroke: "var(--faint)", "stroke-width": 3 })),
      ...begins.map((begin) => upright(acrossOf(begin.at), -4, { stroke: "var(--arm-text-3)", "stroke-width": 2, "stroke-dasharray": "5 4" })),
      ...probes.map((check) => { // a zero-length line with a round cap stays a dot when the drawing is stretched
        const [x, y] = [acrossOf(check.after), 100 - (100 * sum(check.correct)) / check.correct.length];
        return shape("line", { x1: x, x2: x, y1: y, y2: y, stroke: "var(--right)", "stroke-width": 9, "stroke-linecap": "round", ...fine });
      }),
    ];
  }

  function namesBeside() {
    return besides().begins.map((begin) => {
      const across = acrossOf(begin.at) / 10;
      const name = element("span", { className: "begins-here", textContent: branchOf(begin) });
      if (across > 50) name.classList.add("before");
      name.style[across > 50 ? "marginRight" : "marginLeft"] = `${across > 50 ? 100 - across : across}%`;
      return name;
    });
  }

  // Explains the marks and lists the probes.
  function listBeside() {
    if (!at("between")) return;
    const { begins, notes, probes } = besides();
    const kinds = [[notes, "note", " Ticks at the foot are notes."], [probes, "probes", " Dots are shares of probes that were right."],
      [begins, "branch", " The dashed line is where the branch begins."]].filter(([found]) => found.length);
    state.stops = [...new Set([...notes, ...probes].map((each) => among(each.after)).concat(begins.map((each) => among(each.at))))].sort((a, b) => a - b);
    state.marks = new Map();
    at("between").hidden = at("beside").hidden = at("keys-beside").hidden = !kinds.length;
    at("beside").textContent = `Next ${kinds.map(([, name]) => name).join(", ").replace(/, ([^,]*)$/, " or $1")}`;
    at("beside").title = "Next turn before which there was one (n)";
    at("marks-said").textContent = kinds.map(([, , said]) => said).join("");
    if (!at("asked")) return;
    at("asked").hidden = !probes.length;
    at("checkpoints").replaceChildren(...probes.map(checkpoint));
    const drawn = (pictures) => pictures.some((each) => each !== null);
    if (drawn(state.session.picture) && !probes.some((check) => drawn(check.picture)))
      at("checkpoints").append(element("p", { className: "note", textContent: UNDRAWN }));
  }

  function checkpoint(check) {
    const list = element("ol", { className: "probes" });
    const made = element("details", { id: `after-${check.after}` },
      element("summary", { textContent: `after ${check.after} turns: ${rightOf(check)}` }), list);
    made.addEventListener("toggle", () => {
      if (made.open && !list.firstChild) list.append(...check.sample.map((_, place) => probe(check, place)));
    });
    return made;
  }

  function probe(check, place) {
    const { pool } = state;
    const right = check.correct[place];
    const said = `answered ${answered(check, place)}, it is ${plain(check.label[place])}: `;
    const judged = element("b", { className: JUDGED[right], textContent: `${MARK[right]} ${JUDGED[right]}` });
    const words = element("div", {}, element("p", {}, said, judged), element("p", { className: "facts", textContent: plain(check.sample[place]) }));
    const reply = element("pre", { className: "text", tabIndex: 0 });
    reply.setAttribute("role", "group");
    reply.setAttribute("aria-label", "What it replied");
    text(reply, pool.texts[check.reply[place]]);
    words.append(reply);
    const made = element("li", {}, words);
    if (check.picture[place] !== null) {
      const canvas = element("canvas", {});
      canvas.setAttribute("role", "img");
      canvas.setAttribute("aria-label", `Image of the probe, labelled ${plain(check.label[place])}`);
      paint(canvas, pool.pictures[check.picture[place]]);
      made.prepend(canvas);
    }
    return made;
  }

  function showBetween(turn) {
    if (!at("between") || at("between").hidden) return;
    const { begins, notes, probes } = besides();
    const said = [];
    for (const begin of begins.filter((each) => among(each.at) === turn)) {
      const changed = begin.changed.length ? `under ${begin.changed.map(plain).join("; ")}` : "without changes";
      const branch = begin.at > turn ? `After this turn: ${branchOf(begin)}` : branchOf(begin).replace("b", "B");
      said.push(`${branch}, ${changed}. `);
    }
    const where = (after) => (after > turn ? "After this turn" : "Before this turn");
    for (const check of probes.filter((each) => among(each.after) === turn)) {
      const see = element("button", { type: "button", textContent: "See the probes" });
      see.addEventListener("click", () => {
        const asked = at(`after-${check.after}`);
        asked.open = true;
        asked.firstChild.focus();
      });
      said.push(`${where(check.after)}: ${rightOf(check)}. `, see, " ");
    }
    for (const note of notes.filter((each) => among(each.after) === turn)) said.push(`${where(note.after)} the model rewrote its notes. `);
    at("between").replaceChildren(...said);
  }

  // A request shows the latest notes taken before its turn.
  function showNote(turn) {
    if (!at("noted")) return;
    const { session, pool } = state;
    const last = turn === session.correct.length - 1;
    const note = besides().notes.findLast((each) => each.after <= turn || last);
    at("noted").hidden = note === undefined;
    if (note === undefined) return;
    at("noted-said").textContent = noteFacts(note, turn);
    if (note === state.note) return;
    state.note = note;
    text(at("noted-text"), pool.texts[note.text]);
    at("noted-whole").hidden = note.reply === null;
    if (note.reply !== null) text(at("noted-reply"), pool.texts[note.reply]);
  }

  function noteFacts(note, turn) {
    const ago = turn - note.after;
    const since = ago > 0 ? `${ago} turn${ago > 1 ? "s" : ""} before this one` : "just before this one";
    const when = ago < 0 ? "after this turn; no request has shown them yet" : since;
    const empty = state.pool.texts[note.text].trim() ? "" : " They say nothing, so nothing is shown of them.";
    const shown = note.kept.length ? `shown turns ${plain(runsOf(note.kept))}` : "shown no turns";
    return `Written after ${note.after} turn${note.after === 1 ? "" : "s"}, ${when}, in a request that was ${shown}; ${spent(note.usage, note.seconds, note.counted).join("; ")}.${empty}`;
  }

  function showSystem(turn) {
    const { session, pool } = state;
    const part = besides().begins.filter((each) => each.at <= turn).length;
    if (part === state.part) return;
    state.part = part;
    text(at("system"), pool.texts[session.systems[part]]);
  }

  // A mark in the strip shows where the turns of a branch begin.
  function withBeginnings(turns, thumbs, turn) {
    const rising = turns.every((each, place) => !place || turns[place - 1] < each);
    const made = [...thumbs];
    if (!rising) return made;
    for (const begin of [...besides().begins].reverse()) {
      const place = turns.findIndex((each) => each >= begin.at);
      const end = place < 0 && turn >= begin.at && turns.length ? turns.length : place;
      if (end > 0) made.splice(end, 0, markOf(begin));
    }
    return made;
  }

  function markOf(begin) {
    if (!state.marks.has(begin)) state.marks.set(begin, element("span", { className: "begins", textContent: branchOf(begin), title: branchOf(begin) }));
    return state.marks.get(begin);
  }

  // ---- a turn ----

  function text(place, whole, shown = CUT) {
    place.textContent = plain(whole.slice(0, shown));
    if (whole.length <= shown) return;
    const left = (whole.length - shown).toLocaleString("en");
    const more = element("button", { type: "button", textContent: `Show more (${left} characters left)` });
    more.addEventListener("click", () => { text(place, whole, shown + MORE); place.focus(); });
    place.append("\u2026\n", more);
  }

  function paint(canvas, picture) {
    const [rows, columns, packed] = picture;
    const levels = atob(packed);
    const image = new ImageData(columns, rows);
    for (let place = 0; place < levels.length; place += 1) {
      image.data.fill(levels.charCodeAt(place), 4 * place, 4 * place + 3);
      image.data[4 * place + 3] = 255;
    }
    canvas.width = columns;
    canvas.height = rows;
    canvas.getContext("2d").putImageData(image, 0, 0);
  }

  const scratch = document.createElement("canvas"); // images are drawn on it and kept as data URLs
  const MARK = ["\u2717", "\u2713"];
  const JUDGED = ["wrong", "right"];
  const answered = (session, turn) =>
    session.answer[turn] === null ? `nothing (${session.outcome[turn]})` : plain(session.answer[turn]);

  function thumb(turn) {
    if (!state.thumbs.has(turn)) state.thumbs.set(turn, newThumb(turn));
    return state.thumbs.get(turn);
  }

  function newThumb(turn) {
    const { session, pool } = state;
    const right = session.correct[turn];
    const made = element("button", { type: "button", className: JUDGED[right], tabIndex: -1 });
    made.title = `turn ${turn}: ${JUDGED[right]}, answered ${answered(session, turn)}, it is ${plain(session.label[turn])}`;
    made.setAttribute("aria-label", made.title);
    if (session.picture[turn] !== null) {
      paint(scratch, pool.pictures[session.picture[turn]]);
      made.append(element("img", { src: scratch.toDataURL(), alt: "", decoding: "sync" }));
    }
    const said = element("span", { className: JUDGED[right], textContent: `${MARK[right]} ${plain(session.answer[turn] ?? "\u2013")}` });
    made.append(said);
    made.addEventListener("click", () => jump(turn));
    return made;
  }

  function jump(turn) {
    const place = state.path.indexOf(turn);
    if (place >= 0) return go(place);
    at("filter").value = "all";
    return chooseFilter(turn);
  }

  // The window changes little from turn to turn, so the strip is updated in place.
  function hold(wanted) {
    const strip = at("held");
    const kept = new Set(wanted);
    for (const each of [...strip.children]) if (!kept.has(each)) each.remove();
    let next = strip.firstChild;
    for (const each of wanted) {
      if (each === next) next = next.nextSibling;
      else strip.insertBefore(each, next);
    }
  }

  const runsOf = (kept) => {
    const runs = kept.map(([first, last]) => (first === last ? `${first}` : `${first} to ${last}`)).join(", ");
    return runs.length > 120 ? `${runs.slice(0, 120)}\u2026` : runs;
  };

  function showHeld(kept, now) {
    const { session } = state;
    const turns = kept.flatMap(([first, last]) => Array.from({ length: last - first + 1 }, (_, step) => first + step));
    const right = turns.reduce((sum, turn) => sum + session.correct[turn], 0);
    const cut = turns.length > MOST_HELD ? ` The latest ${MOST_HELD} are drawn.` : "";
    at("held-said").textContent = turns.length
      ? `${turns.length} (${runsOf(kept)}): ${right} right, ${turns.length - right} wrong.${cut}`
      : "None.";
    const drawn = turns.slice(-MOST_HELD);
    hold(withBeginnings(drawn, drawn.map(thumb), now));
  }

  function go(place) {
    const { session, pool, path } = state;
    const none = path.length === 0;
    at("turn-view").hidden = none;
    for (const [id, off] of [["first", place <= 0], ["back", place <= 0], ["next", place >= path.length - 1], ["last", place >= path.length - 1]])
      at(id).disabled = off;
    if (none) {
      at("said").textContent = "No turn is like that.";
      if (at("between")) at("between").replaceChildren();
      if (at("noted")) at("noted").hidden = true;
      showHeld([], 0);
      return;
    }
    state.place = Math.min(Math.max(place, 0), path.length - 1);
    const turn = path[state.place];
    const right = session.correct[turn];
    const said = `turn ${turn}: answered ${answered(session, turn)}, it is ${plain(session.label[turn])}: `;
    at("said").replaceChildren(said, element("b", { className: JUDGED[right], textContent: `${MARK[right]} ${JUDGED[right]}` }));
    at("turn").value = String(state.place);
    at("turn").setAttribute("aria-valuetext", `turn ${turn}, ${state.place + 1} of ${path.length}`);
    const x = (1000 * turn) / Math.max(1, session.correct.length - 1);
    state.cursor.setAttribute("x1", x);
    state.cursor.setAttribute("x2", x);
    at("running").setAttribute("aria-label",
      `Accuracy over the latest ${RECENT} turns: ${Math.round(100 * state.running[turn])} % after turn ${turn}.${state.origin}`);
    const picture = session.picture[turn];
    at("picture").hidden = picture === null;
    if (picture !== null) paint(at("picture"), pool.pictures[picture]);
    at("picture").setAttribute("aria-label", `Image of turn ${turn}, labelled ${plain(session.label[turn])}`);
    at("sample").textContent = plain(session.sample[turn]);
    text(at("question"), pool.texts[session.question[turn]]);
    at("as-picture").hidden = !session.seen[turn];
    text(at("reply"), pool.texts[session.reply[turn]]);
    text(at("told"), pool.texts[session.told[turn]]);
    at("facts").textContent = facts(session, pool, turn);
    showSystem(turn);
    showBetween(turn);
    showNote(turn);
    showHeld(session.kept[turn], turn);
  }

  function spent([prompt, cached, completion, reasoning], seconds, counted = null) {
    const said = [];
    if (prompt) said.push(`${prompt} tokens in, ${cached} of them cached, ${completion} out`);
    else if (counted !== null) said.push(`${counted} tokens in (local estimate)`);
    if (reasoning) said.push(`${reasoning} of them reasoning`);
    if (seconds !== null) said.push(`${seconds.toFixed(3)} s`);
    return said;
  }

  function facts(session, pool, turn) {
    const said = [`running accuracy ${Math.round(100 * state.running[turn])} %`, `reading: ${session.outcome[turn]}`];
    if (session.baseline) said.push(`the baseline is ${JUDGED[session.baseline[turn]]}`);
    said.push(...spent(session.usage[turn], session.seconds[turn]));
    if (session.echo[turn] !== null) said.push(`later shown as: ${plain(pool.texts[session.echo[turn]].slice(0, 200))}`);
    return `${said.join("; ")}.`;
  }

  // ---- keys ----

  function error(step) {
    const { session, path } = state;
    for (let place = state.place + step; place >= 0 && place < path.length; place += step)
      if (!session.correct[path[place]]) return go(place);
    return undefined;
  }

  function stop(step) {
    const turn = state.path[state.place] ?? 0;
    const stops = state.stops ?? [];
    const next = step > 0 ? stops.find((each) => each > turn) : stops.findLast((each) => each < turn);
    return next === undefined ? undefined : jump(next);
  }

  const KEYS = {
    ArrowLeft: () => go(state.place - 1), ArrowRight: () => go(state.place + 1),
    Home: () => go(0), End: () => go(state.path.length - 1),
    e: () => error(1), E: () => error(-1), n: () => stop(1), N: () => stop(-1),
  };

  function isOnScreen(element) {
    const { top, bottom } = element.getBoundingClientRect();
    return top < window.innerHeight && bottom > 0;
  }

  // Letters are keys only inside the browser of sessions (WCAG 2.1.4); arrows also where nothing has
  // the focus and it is on the screen.
  function isMeant(event) {
    const browser = at("browser");
    if (browser.contains(event.target)) return !event.target.closest("select, pre");
    return event.target === document.body && event.key.startsWith("Arrow") && isOnScreen(browser);
  }

  function pressed(event) {
    const act = KEYS[event.key];
    if (!act || !state.session || event.ctrlKey || event.altKey || event.metaKey) return;
    if (!isMeant(event)) return;
    event.preventDefault();
    act();
  }

  async function start() {
    document.addEventListener("keydown", pressed);
    at("arm").addEventListener("change", chooseArm);
    at("stream").addEventListener("change", chooseStream);
    at("filter").addEventListener("change", () => chooseFilter(state.path[state.place] ?? 0));
    at("turn").addEventListener("input", () => go(Number(at("turn").value)));
    at("first").addEventListener("click", KEYS.Home);
    at("back").addEventListener("click", KEYS.ArrowLeft);
    at("next").addEventListener("click", KEYS.ArrowRight);
    at("last").addEventListener("click", KEYS.End);
    at("error").addEventListener("click", KEYS.e);
    if (at("beside")) at("beside").addEventListener("click", KEYS.n);
    const arms = [...new Set(index.map(armOf))];
    options(at("arm"), arms.map((arm) => [arm, arm]));
    await chooseArm();
    await drawAll();
    document.body.dataset.ready = "yes";
  }

  start();
})();
