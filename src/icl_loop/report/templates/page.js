"use strict";
(() => {
  const RECENT = 20; // turns in the running accuracy
  const FIRST_PART = 4000; // characters of a text shown at first
  const NEXT_PART = 40000; // characters added by "Show more"
  const NARROW = 560; // chart width in pixels below which names are cut
  const MOST_THUMBNAILS = 240;
  const SVG = "http://www.w3.org/2000/svg";
  const MARK = ["\u2717", "\u2713"];
  const VERDICT = ["wrong", "right"];
  const at = (id) => document.getElementById(id);
  const sum = (numbers) => numbers.reduce((total, each) => total + each, 0);

  // ---- embedded data ----

  async function unpack(id) {
    const bytes = Uint8Array.from(atob(at(id).textContent), (char) => char.charCodeAt(0));
    const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
    return JSON.parse(await new Response(stream).text());
  }

  const unpacked = new Map();
  function load(id) {
    if (!unpacked.has(id)) unpacked.set(id, unpack(id));
    return unpacked.get(id);
  }

  // Replaces invisible characters and those that reorder text by their code point.
  const INVISIBLE = /[\u0000-\u0008\u000b-\u001f\u007f-\u009f\u00ad\u061c\u200b-\u200f\u2028-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb]/g;
  const plain = (text) =>
    text.replace(INVISIBLE, (char) => `\u27e8U+${char.charCodeAt(0).toString(16).toUpperCase().padStart(4, "0")}\u27e9`);

  function element(name, properties = {}, ...children) {
    const made = Object.assign(document.createElement(name), properties);
    made.append(...children);
    return made;
  }

  function shape(name, attributes) {
    const made = document.createElementNS(SVG, name);
    for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
    return made;
  }

  // ---- charts ----

  const tip = element("div", { id: "tip", hidden: true });
  document.body.append(tip);

  // Shows the values of a mark, always as text.
  function showTip(_handler, event, _item, value) {
    tip.hidden = value === null || value === undefined || value === "";
    if (tip.hidden) return;
    const rows = typeof value === "object" ? Object.entries(value) : [["", value]];
    tip.replaceChildren(...rows.map(([name, text]) =>
      element("div", {}, element("span", { textContent: `${name} ` }), element("b", { textContent: plain(String(text)) }))));
    const { width, height } = tip.getBoundingClientRect();
    tip.style.left = `${Math.max(4, Math.min(event.clientX + 12, innerWidth - width - 4))}px`;
    tip.style.top = `${Math.max(4, Math.min(event.clientY + 12, innerHeight - height - 4))}px`;
  }

  const DRAWING = { mode: "vega-lite", ast: true, renderer: "svg", actions: false, defaultStyle: false, tooltip: showTip };

  // On narrow screens, names are shortened to leave room for the lines.
  function shorten(chart, width) {
    if (width >= NARROW || !chart.layer) return chart;
    const layer = chart.layer.map((each) => {
      if (each.mark && each.mark.limit) return { ...each, mark: { ...each.mark, limit: 0.32 * width, dir: "rtl" } };
      const y = each.encoding && each.encoding.y;
      if (!y || !y.axis || !y.axis.labelLimit) return shorten(each, width);
      return { ...each, encoding: { ...each.encoding, y: { ...y, axis: { ...y.axis, labelLimit: 0.55 * width, labelFontSize: 9 } } } };
    });
    return { ...chart, layer };
  }

  async function draw(place) {
    const name = place.dataset.figure;
    const select = place.dataset.select ? at(place.dataset.select) : null;
    const figure = await load(`figure-${name}`);
    await vegaEmbed(place, shorten(select ? figure[select.value] : figure, place.clientWidth), DRAWING);
    place.dataset.drawn = select ? select.value : "yes";
  }

  async function drawAll() {
    for (const place of document.querySelectorAll(".chart")) await draw(place);
    at("window").addEventListener("change", async () => {
      for (const place of document.querySelectorAll(".chart[data-select=window]")) await draw(place);
    });
  }

  // ---- choosing a session ----

  const index = JSON.parse(at("index").textContent);
  const several = new Set(index.map((each) => each.experiment)).size > 1;
  const state = { session: null, pool: null, visible: [], place: 0, thumbnails: new Map(), running: [], stops: [] };

  const armOf = (entry) => (several ? `${entry.experiment} / ${entry.arm}` : entry.arm);
  const chosen = () => index.find((each) => armOf(each) === at("arm").value && String(each.stream) === at("stream").value);
  const numberOf = (turn) => turn + 1; // people count turns from 1, as the tables do
  const lastTurn = () => state.session.correct.length - 1;

  function setOptions(select, texts) {
    const before = select.value;
    select.replaceChildren(...texts.map(([value, text]) => element("option", { value, textContent: text })));
    if (texts.some(([value]) => value === before)) select.value = before;
  }

  function chooseArm() {
    const entries = index.filter((entry) => armOf(entry) === at("arm").value);
    setOptions(at("stream"), entries.map((entry) => [
      String(entry.stream),
      `${entry.stream} (${entry.turns} of ${entry.planned} turns, ${entry.status})`,
    ]));
    return chooseStream();
  }

  async function chooseStream() {
    const entry = chosen();
    const [session, pool] = await Promise.all([load(entry.blob), load(entry.pool)]);
    if (entry !== chosen()) return; // another session was chosen meanwhile
    const turn = state.visible[state.place] ?? 0;
    Object.assign(state, {
      session, pool, thumbnails: new Map(), marks: new Map(), running: runningAccuracy(session.correct, session.chosen), part: undefined, note: undefined,
    });
    setOptions(at("filter"), [
      ["all", "all turns"], ["errors", "only errors"],
      ...session.labels.map((label, place) => [`label-${place}`, `label ${plain(label)}`]),
    ]);
    drawRunning();
    describeEvents();
    listProbes();
    chooseFilter(turn);
  }

  function chooseFilter(turn) {
    const { session } = state;
    const filter = at("filter").value;
    const label = filter.startsWith("label-") ? session.labels[Number(filter.slice(6))] : null;
    state.visible = [...session.correct.keys()].filter((each) =>
      filter === "errors" ? !session.correct[each] : label === null || session.label[each] === label);
    at("turn").max = String(Math.max(0, state.visible.length - 1));
    const near = state.visible.findIndex((each) => each >= turn);
    go(near < 0 ? state.visible.length - 1 : near);
  }

  // ---- running accuracy ----

  // Every `chosen` turns the sample was chosen; these turns do not count.
  function runningAccuracy(correct, chosen) {
    const counts = (turn) => (turn >= 0 && (!chosen || (turn + 1) % chosen !== 0) ? 1 : 0);
    let [right, counted] = [0, 0];
    return correct.map((each, turn) => {
      const [now, before] = [counts(turn), counts(turn - RECENT)];
      right += now * each - (before ? correct[turn - RECENT] : 0);
      counted += now - before;
      return right / counted;
    });
  }

  const shownAt = (after) => Math.min(after, lastTurn()); // the turn with which an event is shown
  const across = (turn) => (1000 * turn) / Math.max(1, lastTurn());
  const line = (attributes) => shape("line", { "vector-effect": "non-scaling-stroke", fill: "none", ...attributes });

  function drawRunning() {
    const points = state.running.map((value, turn) => `${across(turn)},${100 - 100 * value}`).join(" ");
    const drawing = shape("svg", { viewBox: "0 0 1000 100", preserveAspectRatio: "none", "aria-hidden": "true" });
    for (const y of [0, 50, 100]) drawing.append(line({ x1: 0, x2: 1000, y1: y, y2: y, stroke: "var(--rule)" }));
    const curve = { points, stroke: "var(--accent)", "stroke-width": 2, "vector-effect": "non-scaling-stroke", fill: "none" };
    state.cursor = line({ y1: -4, y2: 104, stroke: "var(--ink)", "stroke-width": 2 });
    drawing.append(shape("polyline", curve), ...eventMarks(), state.cursor);
    at("running").replaceChildren(...branchLabels(), drawing);
  }

  function eventMarks() {
    const { branches, notes, checkpoints } = state.session;
    const upright = (after, y, style) => line({ x1: across(shownAt(after)), x2: across(shownAt(after)), y1: y, y2: 104, ...style });
    return [
      ...notes.map((note) => upright(note.after, 90, { stroke: "var(--faint)", "stroke-width": 3 })),
      ...branches.map((branch) => upright(branch.at, -4, { stroke: "var(--arm-text-3)", "stroke-width": 2, "stroke-dasharray": "5 4" })),
      ...checkpoints.filter(isAsTold).map((check) => { // a zero-length line with a round cap stays a dot when the drawing is stretched
        const [x, y] = [across(shownAt(check.after)), 100 - (100 * sum(check.correct)) / check.correct.length];
        return line({ x1: x, x2: x, y1: y, y2: y, stroke: "var(--right)", "stroke-width": 9, "stroke-linecap": "round" });
      }),
    ];
  }

  function branchLabels() {
    return state.session.branches.map((branch) => {
      const percent = across(shownAt(branch.at)) / 10;
      const label = element("span", { className: "branch-label", textContent: startOf(branch) });
      if (percent > 50) label.classList.add("before");
      label.style[percent > 50 ? "marginRight" : "marginLeft"] = `${percent > 50 ? 100 - percent : percent}%`;
      return label;
    });
  }

  // ---- events between turns: notes, probe checkpoints and starts of branches ----

  const startOf = (branch) => `branch of ${plain(branch.of)} begins here`;
  const isAsTold = (check) => check.verdicts === "told";
  const scoreOf = (check) => `${sum(check.correct)} of ${check.correct.length} probes right${isAsTold(check) ? "" : ` with verdicts ${check.verdicts}`}`;
  const idOf = (check) => `after-${check.after}${isAsTold(check) ? "" : `-${check.verdicts}`}`;

  // Explains the marks and offers to step through the events.
  function describeEvents() {
    const { branches, notes, checkpoints } = state.session;
    const kinds = [
      [notes, "note", " Ticks at the bottom mark notes."],
      [checkpoints, "probes", " Dots show the share of probes answered correctly."],
      [branches, "branch", " The dashed line marks the start of the branch."],
    ].filter(([events]) => events.length);
    const turns = [...notes, ...checkpoints].map((each) => each.after).concat(branches.map((each) => each.at));
    state.stops = [...new Set(turns.map(shownAt))].sort((a, b) => a - b);
    for (const id of ["events", "next-event", "event-keys"]) at(id).hidden = !kinds.length;
    at("next-event").textContent = `Next ${kinds.map(([, name]) => name).join(", ").replace(/, ([^,]*)$/, " or $1")}`;
    at("event-legend").textContent = kinds.map(([, , legend]) => legend).join("");
  }

  function showEvents(turn) {
    const { branches, notes, checkpoints } = state.session;
    const where = (after) => (after > turn ? "After this turn" : "Before this turn");
    const parts = [];
    for (const branch of branches.filter((each) => shownAt(each.at) === turn)) {
      const changed = branch.changed.length ? `with ${branch.changed.map(plain).join("; ")}` : "without changes";
      const start = branch.at > turn ? `After this turn: ${startOf(branch)}` : startOf(branch).replace("b", "B");
      parts.push(`${start}, ${changed}. `);
    }
    for (const check of checkpoints.filter((each) => shownAt(each.after) === turn)) {
      const show = element("button", { type: "button", textContent: "Show the probes" });
      show.addEventListener("click", () => {
        const details = at(idOf(check));
        details.open = true;
        details.firstChild.focus();
      });
      parts.push(`${where(check.after)}: ${scoreOf(check)}. `, show, " ");
    }
    for (const note of notes.filter((each) => shownAt(each.after) === turn)) parts.push(`${where(note.after)} the model rewrote its notes. `);
    at("events").replaceChildren(...parts);
  }

  // ---- probes ----

  const NO_PROBE_IMAGES = "Transcripts do not contain the images of probes, and the data set was not available when this page was made.";

  function listProbes() {
    const { session } = state;
    at("session-probes").hidden = !session.checkpoints.length;
    at("checkpoints").replaceChildren(...session.checkpoints.map(checkpoint));
    const hasImage = (images) => images.some((each) => each !== null);
    if (hasImage(session.image) && !session.checkpoints.some((check) => hasImage(check.image)))
      at("checkpoints").append(element("p", { className: "note", textContent: NO_PROBE_IMAGES }));
  }

  function checkpoint(check) {
    const list = element("ol", { className: "probes" });
    const details = element("details", { id: idOf(check) },
      element("summary", { textContent: `after ${check.after} turns: ${scoreOf(check)}` }), list);
    details.addEventListener("toggle", () => {
      if (details.open && !list.firstChild) list.append(...check.sample.map((_, place) => probe(check, place)));
    });
    return details;
  }

  function probe(check, place) {
    const about = [element("p", {}, ...resultOf(check, place)), facts(check.sample[place]), text("Reply", check.reply[place])];
    return withImage(check.image[place], `Image of the probe, labelled ${plain(check.label[place])}`, about);
  }

  const facts = (told) => element("p", { className: "facts", textContent: plain(told) });

  function text(ariaLabel, whole) {
    const made = element("pre", { className: "text", tabIndex: 0, role: "group", ariaLabel });
    setText(made, state.pool.texts[whole]);
    return made;
  }

  function withImage(image, ariaLabel, about) {
    const item = element("li", {}, element("div", {}, ...about));
    if (image === null) return item;
    const canvas = element("canvas", { role: "img", ariaLabel });
    paint(canvas, state.pool.images[image]);
    item.prepend(canvas);
    return item;
  }

  // ---- right answers shown before the first turn ----

  function listExemplars(shown) {
    at("session-exemplars").hidden = !shown.length;
    at("exemplars").replaceChildren(...shown.map((each) => withImage(
      each.image, `Image of the exemplar, labelled ${plain(each.label)}`,
      [facts(each.sample), text("Question", each.question), text("Reply", each.reply), text("Feedback", each.told)],
    )));
  }

  // ---- notes ----

  // A request shows the latest notes taken before its turn.
  function showNote(turn) {
    const { session, pool } = state;
    const note = session.notes.findLast((each) => each.after <= turn || turn === lastTurn());
    at("note").hidden = note === undefined;
    if (note === undefined) return;
    at("note-facts").textContent = noteFacts(note, turn);
    if (note === state.note) return;
    state.note = note;
    setText(at("note-text"), pool.texts[note.text]);
    at("note-whole").hidden = note.reply === null;
    if (note.reply !== null) setText(at("note-reply"), pool.texts[note.reply]);
  }

  function noteFacts(note, turn) {
    const ago = turn - note.after;
    const before = ago > 0 ? `${ago} turn${ago > 1 ? "s" : ""} before this one` : "just before this one";
    const when = ago < 0 ? "after this turn, so no request has shown them yet" : before;
    const empty = state.pool.texts[note.text].trim() ? "" : " The notes are empty, so requests do not show them.";
    return `Written after ${note.after} turn${note.after === 1 ? "" : "s"}, ${when}, ${requestOf(note)}.${empty}`;
  }

  function requestOf({ kept, usage, seconds, counted }) {
    const shown = kept === null ? "unknown turns" : kept.length ? `turns ${plain(rangesOf(kept))}` : "no turns";
    return `in a request that showed ${shown}; ${costOf(usage, seconds, counted).join("; ")}`;
  }

  // ---- choices of samples ----

  function showChoice(turn) {
    const choice = state.session.choices.find((each) => each.after === turn);
    at("choice").hidden = choice === undefined;
    if (choice === undefined) return;
    const { candidates, sample, outcome } = choice;
    const how = outcome === "chosen" ? "chosen by the model" : `drawn at random, as the reply was ${outcome.replaceAll("_", " ")}`;
    at("choice-facts").textContent = `${plain(sample)} was ${how}. Candidates: ${candidates.map(plain).join(", ")}. Asked ${requestOf(choice)}.`;
    setText(at("choice-reply"), state.pool.texts[choice.reply]);
  }

  // ---- texts and images ----

  function setText(place, whole, shown = FIRST_PART) {
    place.textContent = plain(whole.slice(0, shown));
    if (whole.length <= shown) return;
    const left = (whole.length - shown).toLocaleString("en");
    const more = element("button", { type: "button", textContent: `Show more (${left} characters left)` });
    more.addEventListener("click", () => { setText(place, whole, shown + NEXT_PART); place.focus(); });
    place.append("\u2026\n", more);
  }

  function paint(canvas, [rows, columns, packed]) {
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

  // ---- past turns shown ----

  const scratch = document.createElement("canvas"); // images are drawn on it and kept as data URLs

  function thumbnail(turn) {
    if (!state.thumbnails.has(turn)) state.thumbnails.set(turn, newThumbnail(turn));
    return state.thumbnails.get(turn);
  }

  function newThumbnail(turn) {
    const { session, pool } = state;
    const className = VERDICT[session.correct[turn]];
    const title = `turn ${numberOf(turn)}: ${resultText(session, turn)}${className}`;
    const button = element("button", { type: "button", className, tabIndex: -1, title, ariaLabel: title });
    if (session.image[turn] !== null) {
      paint(scratch, pool.images[session.image[turn]]);
      button.append(element("img", { src: scratch.toDataURL(), alt: "", decoding: "sync" }));
    }
    const answer = plain(session.answer[turn] ?? "\u2013");
    button.append(element("span", { className, textContent: `${MARK[session.correct[turn]]} ${answer}` }));
    button.addEventListener("click", () => jump(turn));
    return button;
  }

  const rangesOf = (kept) => {
    const ranges = kept.map(([first, last]) => (first === last ? `${numberOf(first)}` : `${numberOf(first)} to ${numberOf(last)}`)).join(", ");
    return ranges.length > 120 ? `${ranges.slice(0, 120)}\u2026` : ranges;
  };

  function showContext(known, now) {
    const kept = known ?? [];
    const turns = kept.flatMap(([first, last]) => Array.from({ length: last - first + 1 }, (_, step) => first + step));
    const right = sum(turns.map((turn) => state.session.correct[turn]));
    const cut = turns.length > MOST_THUMBNAILS ? ` Only the latest ${MOST_THUMBNAILS} are drawn.` : "";
    at("context-facts").textContent = turns.length
      ? `${turns.length} (${rangesOf(kept)}): ${right} right, ${turns.length - right} wrong.${cut}`
      : known === null ? "Not known." : "None.";
    const drawn = turns.slice(-MOST_THUMBNAILS);
    updateStrip(withBranchMarks(drawn, drawn.map(thumbnail), now));
  }

  // The window changes little from turn to turn, so the strip is updated in place.
  function updateStrip(wanted) {
    const strip = at("context");
    const kept = new Set(wanted);
    for (const each of [...strip.children]) if (!kept.has(each)) each.remove();
    let next = strip.firstChild;
    for (const each of wanted) {
      if (each === next) next = next.nextSibling;
      else strip.insertBefore(each, next);
    }
  }

  // A mark in the strip shows where the turns of a branch begin, if turns are in order.
  function withBranchMarks(turns, thumbnails, now) {
    const ordered = turns.every((each, place) => !place || turns[place - 1] < each);
    if (!ordered) return thumbnails;
    const marked = [...thumbnails];
    for (const branch of [...state.session.branches].reverse()) {
      const place = turns.findIndex((each) => each >= branch.at);
      const end = place < 0 && now >= branch.at ? turns.length : place;
      if (end > 0) marked.splice(end, 0, branchMark(branch));
    }
    return marked;
  }

  function branchMark(branch) {
    if (!state.marks.has(branch))
      state.marks.set(branch, element("span", { className: "branch-mark", textContent: startOf(branch), title: startOf(branch) }));
    return state.marks.get(branch);
  }

  // ---- a turn ----

  function resultText({ answer, outcome, label }, place) {
    const given = answer[place] === null ? `nothing (${outcome[place]})` : plain(answer[place]);
    return `answered ${given}, label ${plain(label[place])}: `;
  }

  function resultOf(asked, place) {
    const right = asked.correct[place];
    return [resultText(asked, place), element("b", { className: VERDICT[right], textContent: `${MARK[right]} ${VERDICT[right]}` })];
  }

  function go(place) {
    const { session, pool, visible } = state;
    at("turn-view").hidden = !visible.length;
    at("first").disabled = at("back").disabled = place <= 0;
    at("next").disabled = at("last").disabled = place >= visible.length - 1;
    if (!visible.length) {
      at("result").textContent = "No turn matches the filter.";
      at("events").replaceChildren();
      at("note").hidden = true;
      showContext([], 0);
      return;
    }
    state.place = Math.min(Math.max(place, 0), visible.length - 1);
    const turn = visible[state.place];
    at("result").replaceChildren(`turn ${numberOf(turn)} of ${session.correct.length}: `, ...resultOf(session, turn));
    at("turn").value = String(state.place);
    at("turn").setAttribute("aria-valuetext", `turn ${numberOf(turn)}, ${state.place + 1} of ${visible.length}`);
    state.cursor.setAttribute("x1", across(turn));
    state.cursor.setAttribute("x2", across(turn));
    const starts = session.branches.map((branch) => ` From turn ${numberOf(branch.at)} on: ${startOf(branch)}.`).join("");
    at("running").ariaLabel = `Accuracy over the latest ${RECENT} turns: ${Math.round(100 * state.running[turn])} % after turn ${numberOf(turn)}.${starts}`;
    const image = session.image[turn];
    at("image").hidden = image === null;
    if (image !== null) paint(at("image"), pool.images[image]);
    at("image").ariaLabel = `Image of turn ${numberOf(turn)}, labelled ${plain(session.label[turn])}`;
    at("sample").textContent = plain(session.sample[turn]);
    setText(at("question"), pool.texts[session.question[turn]]);
    at("as-png").hidden = !session.png[turn];
    setText(at("reply"), pool.texts[session.reply[turn]]);
    const reasoning = session.reasoning[turn];
    at("reasoned").hidden = reasoning === null;
    if (reasoning !== null) setText(at("reasoning"), pool.texts[reasoning]);
    setText(at("told"), pool.texts[session.told[turn]]);
    at("facts").textContent = turnFacts(turn);
    showSystem(turn);
    showEvents(turn);
    showNote(turn);
    showChoice(turn);
    showContext(session.kept[turn], turn);
  }

  function showSystem(turn) {
    const { session, pool } = state;
    const part = session.branches.filter((each) => each.at <= turn).length;
    if (part !== state.part) {
      setText(at("system"), pool.texts[session.systems[part]]);
      listExemplars(session.exemplars[part]);
    }
    state.part = part;
  }

  function costOf([prompt, cached, completion, reasoning], seconds, counted = null) {
    const parts = [];
    if (prompt) parts.push(`${prompt} tokens in, ${cached} of them cached, ${completion} out`);
    else if (counted !== null) parts.push(`${counted} tokens in (local estimate)`);
    if (reasoning) parts.push(`${reasoning} of them reasoning`);
    if (seconds !== null) parts.push(`${seconds.toFixed(3)} s`);
    return parts;
  }

  function turnFacts(turn) {
    const { session, pool } = state;
    const parts = [`running accuracy ${Math.round(100 * state.running[turn])} %`, `outcome: ${session.outcome[turn]}`];
    if (session.baseline) parts.push(`the baseline is ${VERDICT[session.baseline[turn]]}`);
    parts.push(...costOf(session.usage[turn], session.seconds[turn]));
    if (session.echo[turn] !== null) parts.push(`shown in later requests as: ${plain(pool.texts[session.echo[turn]].slice(0, 200))}`);
    return `${parts.join("; ")}.`;
  }

  // ---- keys ----

  function jump(turn) {
    const place = state.visible.indexOf(turn);
    if (place >= 0) return go(place);
    at("filter").value = "all";
    return chooseFilter(turn);
  }

  function goToError(step) {
    const { session, visible } = state;
    let place = state.place + step;
    while (session.correct[visible[place]]) place += step;
    if (place in visible) go(place);
  }

  function goToEvent(step) {
    const turn = state.visible[state.place] ?? 0;
    const next = step > 0 ? state.stops.find((each) => each > turn) : state.stops.findLast((each) => each < turn);
    if (next !== undefined) jump(next);
  }

  const KEYS = {
    ArrowLeft: () => go(state.place - 1), ArrowRight: () => go(state.place + 1),
    Home: () => go(0), End: () => go(state.visible.length - 1),
    e: () => goToError(1), E: () => goToError(-1), n: () => goToEvent(1), N: () => goToEvent(-1),
  };
  const BUTTONS = { first: "Home", back: "ArrowLeft", next: "ArrowRight", last: "End", error: "e", "next-event": "n" };

  // Keys work inside the session browser (WCAG 2.1.4); arrow keys also while it is visible and nothing has the focus.
  function isForBrowser(event) {
    const browser = at("browser");
    if (browser.contains(event.target)) return !event.target.closest("select, pre");
    const { top, bottom } = browser.getBoundingClientRect();
    return event.target === document.body && event.key.startsWith("Arrow") && top < innerHeight && bottom > 0;
  }

  function pressKey(event) {
    const action = KEYS[event.key];
    if (!action || !state.session || event.ctrlKey || event.altKey || event.metaKey || !isForBrowser(event)) return;
    event.preventDefault();
    action();
  }

  // Says below which tables there is more to the side, where scroll bars may be hidden.
  function hintAtScrolling() {
    const watch = new ResizeObserver((entries) => {
      for (const { target } of entries) target.classList.toggle("scrolls", target.scrollWidth > target.clientWidth + 1);
    });
    for (const table of document.querySelectorAll(".wide")) watch.observe(table);
  }

  async function start() {
    hintAtScrolling();
    document.addEventListener("keydown", pressKey);
    at("arm").addEventListener("change", chooseArm);
    at("stream").addEventListener("change", chooseStream);
    at("filter").addEventListener("change", () => chooseFilter(state.visible[state.place] ?? 0));
    at("turn").addEventListener("input", () => go(Number(at("turn").value)));
    for (const [id, key] of Object.entries(BUTTONS)) at(id).addEventListener("click", KEYS[key]);
    setOptions(at("arm"), [...new Set(index.map(armOf))].map((arm) => [arm, arm]));
    await chooseArm();
    await drawAll();
    document.body.dataset.ready = "yes";
  }

  start();
})();
