// Wires the page together.

import { Admin } from "./admin.js";
import { enter, get, Outbox, post, refused, speakOf } from "./api.js";
import { Clock } from "./clock.js";
import { button, find, keep, randomId, remember, say } from "./dom.js";
import { History } from "./history.js";
import { Inspect } from "./inspect.js";
import { actionOf, answerButton, letGoOfButtons } from "./keys.js";
import { phrase, translatePage } from "./language.js";
import { Practice } from "./practice.js";
import { Queue } from "./queue.js";
import { Remarks } from "./remarks.js";
import { Report } from "./report.js";
import { Session } from "./session.js";
import { Stage } from "./stage.js";
import { Status } from "./status.js";
import { Transport } from "./transport.js";
import { Views } from "./views.js";
import { hasWelcomed, openHelp, openWelcome } from "./welcome.js";
import { Writing } from "./writing.js";

const tab = randomId(); // anew with each load, so that two tabs never share their leases

async function runOf() {
	for (;;) {
		try {
			return await get("api/run");
		} catch (error) {
			find("old-browser").textContent = error.status === 403 && error.ours ? refused(error)
				: phrase("The server does not answer yet. This page goes on by itself when it does.");
			document.body.dataset.state = "offline";
			await new Promise((resolve) => setTimeout(resolve, 1000));
		}
	}
}

/** Lets the person change the name that is stored with the answers, unless their link has it; returns how
 * to read it. */
function personOf(run, onChange) {
	const field = find("person");
	if (run.named) {
		Object.assign(field, { value: run.person, readOnly: true });
		return () => run.person;
	}
	const name = () => [...field.value.trim()].slice(0, 20).join("") || run.person || "anonymous";
	field.value = remember("person") ?? run.person ?? "";
	field.addEventListener("change", () => {
		field.value = name();
		keep("person", name());
		onChange();
		say(phrase`Answers are now stored as ${name()}'s.`);
	});
	field.addEventListener("keydown", (event) => event.key === "Enter" && field.blur());
	return name;
}

function listen(parts) {
	const { run, session, views, practice } = parts;
	const openers = {
		keys: () => {
			const { entry } = session;
			const { kind, clips: { length: clips } } = entry?.query ?? { ...run, clips: { length: run.clips } };
			openHelp({ ...run, kind, clips, forms: entry ? [entry.clips[0].form] : run.forms }, () => practice.start());
		},
		history: () => views.toggle("history"),
		inspect: () => views.toggle("inspect"),
	};
	if (run.role === "labeller") {
		delete openers.inspect;
		find("open-inspect").hidden = true;
	}
	for (const [name, open] of Object.entries(openers)) find(`open-${name}`).addEventListener("click", open);
	if (run.role !== "labeller") openers.admin = () => views.toggle("admin"); // its button is its own
	document.addEventListener("keydown", (event) => {
		if (document.querySelector("dialog[open]")) return;
		const action = actionOf(event);
		if (!action || scrolls(event, action, session)) return;
		const opener = openers[action.name];
		if (opener) opener();
		if (opener || act(parts, action)) event.preventDefault();
	});
	letGoOfButtons();
}

/** Whether a key scrolls a text, and does nothing else: Space everywhere, arrows in the text itself. */
function scrolls({ target, key }, { name }, session) {
	if (session.view !== "labelling" || session.entry?.clips[0].form !== "text") return false;
	return name === "play" || (key === "ArrowDown" && Boolean(target.closest?.(".page-of-text")));
}

/** Does what a key asks for; returns whether it asked for anything here. */
function act({ session, transport, views, inspect, writing, practice, remarks }, action) {
	const name = action.digit === 0 ? "restart" : action.name;
	if (name === "close") {
		if (views.open) views.go("labelling");
		else if (session.mode === "review") views.leaveReview();
		else practice.stop();
		return true;
	}
	if (views.open) return session.view === "inspect" && inspect.traces.act(name);
	if (name === "rewrite") return writing.rewrite(session.entry);
	if (remarks.act(name)) return true;
	if (session.entry) {
		if (action.name === "digit" && session.judge.digit(action.digit, action)) return true;
		if (session.judge.act(name, action) || transport.act(name)) return true;
	}
	if (name !== "undo") return false;
	session.undo();
	return true;
}

function extras({ session, transport, writing, run, remarks }) {
	const { preference } = session.judges;
	const small = (label, act, key) => button(label, act, { key, className: "small" });
	const strengths = small("How much?", () => press(preference.toggleStrengths()));
	const press = (on) => strengths.setAttribute("aria-pressed", on);
	press(!preference.scale.hidden);
	session.onShown = () => {
		transport.show();
		strengths.hidden = session.judge !== preference;
	};
	if (run.forms.includes("text")) {
		transport.extra.append(small("Rewrite", () => writing.rewrite(session.entry), "E"),
			small("Demonstrate", () => writing.demonstrate()));
	}
	transport.extra.append(...remarks.buttons(), strengths, answerButton("undo", "Undo", () => session.judge.act("undo") || session.undo(),
		{ className: "small" }));
}

function assemble(run) {
	const still = matchMedia("(prefers-reduced-motion: reduce)").matches;
	const parts = { run };
	const person = personOf(run, () => parts.status.poll());
	const identity = () => ({ person: person(), tab });
	speakOf(run.id);
	const outbox = new Outbox(run.id, {
		onChange: () => parts.status?.figures(),
		onRefused: (error, item) => {
			if (item.path === "api/damaged") return; // the pair is no longer this page's
			const text = item.body.response !== undefined || item.body.kind === "rewrite";
			if (!error.final) say(phrase`${error.message} The answer is kept and tried again.`);
			else if (text) parts.writing.refused(item, error.message);
			else say(phrase`Not stored: ${error.message}`);
		},
	});
	const stage = new Stage(find("stage"), new Clock({ playing: !still }));
	const session = new Session({ run, stage, outbox, identity });
	const queue = new Queue({
		identity, current: () => session.tickets, onReady: () => session.wake(),
		onDamaged: (ticket) => {
			if (ticket) outbox.add("api/damaged", { ...identity(), ticket });
			say("A clip was damaged and its pair was skipped.");
			parts.status.figures();
		},
	});
	session.queue = queue;
	const [views, report] = [new Views(session), new Report()];
	const status = new Status({ run, stage, outbox, identity, queue });
	new History(session, views, report);
	if (run.role !== "labeller") new Admin(session, views, report);
	return Object.assign(parts, { outbox, session, queue, identity, views, status, transport: new Transport(stage),
		inspect: new Inspect(session, views, report, status), practice: new Practice(session),
		writing: new Writing(session), remarks: new Remarks(session) });
}

async function start() {
	enter();
	translatePage(find("language"));
	const parts = assemble(await runOf());
	const { run, outbox, session, queue, identity, practice } = parts;
	listen(parts);
	extras(parts);
	addEventListener("pagehide", () => {
		post("api/release", identity(), { keepalive: true }).catch(() => null); // gives the leases back
	});
	addEventListener("pageshow", (event) => event.persisted && queue.fill());
	find("old-browser").remove();
	find("page").hidden = false;
	session.wait();
	await outbox.flush(); // before new leases, or a pair that was answered might come again
	queue.fill();
	if (!remember(`${run.id}:welcomed`) && !hasWelcomed(run, identity())) {
		openWelcome(run, identity, () => practice.start());
	}
}

start();
