// The header: progress and the trainer in words, and the current policy moving in its window.

import { absence, connection, get, Refusal, refused } from "./api.js";
import { Camera } from "./camera.js";
import { fit, loadClip, makeDrawer } from "./clips.js";
import { Clock } from "./clock.js";
import { duration, element, find, say, visible } from "./dom.js";
import { decimal, heard, phrase } from "./language.js";
import { onTheme } from "./shade.js";

/** Polls the server once a second while the page is visible. */
export class Status {
	constructor({ run, stage, outbox, identity, queue }) {
		Object.assign(this, { outbox, identity, queue, last: null, asking: false, signedOut: "" });
		this.isLabeller = run.role === "labeller";
		find("progress").hidden = this.isLabeller; // how the run is doing is for admins
		this.policy = new Policy(stage);
		setInterval(() => this.poll(), 1000);
		document.addEventListener("visibilitychange", () => this.poll());
		connection.addEventListener("change", () => this.#connection());
		this.poll();
	}

	async poll() {
		if (document.hidden || this.asking) return;
		this.asking = true;
		try {
			const { person } = this.identity();
			this.last = await get(`api/status?person=${encodeURIComponent(person)}`);
			if (this.signedOut) location.reload();
			this.#show(this.last);
		} catch (error) {
			this.signedOut = error instanceof Refusal && error.status === 403 ? refused(error) : "";
			this.banner();
		} finally {
			this.asking = false;
		}
	}

	#show({ labels, budget, trainer, asked, mine }) {
		connection.trainer = trainer;
		const words = visible(heard(trainer.words));
		find("trainer-words").textContent = words;
		find("progress").value = budget ? Math.min(1, labels / budget) : 0;
		find("waiting-more").textContent = this.isLabeller ? "" : words;
		document.title = `${this.isLabeller ? mine : phrase`${labels} of ${budget}`} · prefrl`;
		this.figures();
		if (!this.isLabeller) this.policy.refresh(`${trainer.round} ${trainer.state === "finished"} ${asked}`);
	}

	/** Writes the numbers of the header, each with its sentence. */
	figures() {
		const unsaved = this.outbox.count;
		this.banner();
		Object.assign(document.body.dataset, { unsaved, saved: this.outbox.saved });
		const { last, queue: { damaged } } = this;
		const rows = !last ? [] : this.isLabeller ? ownRows(last) : rowsOf(last, damaged);
		if (unsaved) rows.push([unsaved, phrase("unsaved"), "answers are kept here until the server takes them", "unsaved"]);
		const text = JSON.stringify(rows);
		if (text === this.written) return;
		this.written = text;
		find("figures").replaceChildren(...rows.map(([value, name, title, className = ""]) =>
			element("div", { title, className },
				element("dt", {}, phrase(name), element("span", { className: "unseen" }, `: ${phrase(title)}`)),
				element("dd", {}, `${value}`))));
	}

	#connection() {
		this.banner();
		if (connection.gone) return;
		say("The server is back.");
		this.outbox.flush();
		this.poll();
	}

	/** Says above everything what is wrong, if something is. */
	banner() {
		const { count } = this.outbox;
		const finished = connection.trainer.state === "finished";
		let words = "";
		if (connection.gone) words = absence();
		else if (this.signedOut) words = this.signedOut;
		if (words && count) words += ` ${phrase`${count} unsaved: your answers are kept in this browser and sent then.`}`;
		else if (connection.gone && !finished) words += ` ${phrase("Go on: your answers are kept in this browser.")}`;
		document.body.dataset.server = connection.gone ? "gone" : "there";
		const banner = find("banner");
		banner.classList.toggle("calm", finished && !count);
		banner.hidden = !words;
		if (banner.textContent !== words) banner.textContent = words;
	}
}

/** The numbers of a status: [value, name, sentence, class]; those of one person first. */
function ownRows({ mine, per_minute: pace, repeats }) {
	return [[mine, phrase("yours"), phrase`${mine} labels are yours`], paceOf(pace), again(repeats)].filter(Boolean);
}

function paceOf(pace) {
	const rounded = Math.round(pace * 10) / 10;
	return pace && [decimal(rounded, rounded % 1 ? 1 : 0), "a minute", "labels a minute"];
}

function again({ same, of }) {
	return of && [phrase`${same} of ${of}`, "same again", phrase`you agreed with yourself on ${same} of ${of} pairs asked again`];
}

function rowsOf({ labels, budget, mine, clips, seconds, per_minute: pace, seconds_left: left, accuracy, repeats, damaged }, seen) {
	const percent = `${Math.round(accuracy * 100)} %`;
	const skipped = Math.max(damaged, seen);
	return [
		[phrase`${labels} of ${budget}`, phrase("labels"), phrase`${labels} of ${budget} labels are done, ${mine} of them yours`],
		clips && [clips, phrase("clips"), phrase`${clips} clips were compared, in ${duration(seconds)} of looking at them`],
		paceOf(pace),
		left !== null && [duration(left), "time left", "time left at this rate"],
		accuracy !== null && [percent, phrase("foreseen"), phrase`of answers unseen by the reward model it foresaw ${percent}`],
		again(repeats),
		skipped && [skipped, phrase("damaged"), "pairs were skipped, as a clip was damaged"],
	].filter(Boolean);
}

/** The newest policy, moving, wherever there is a window for it. */
class Policy {
	constructor(stage) {
		const still = matchMedia("(prefers-reduced-motion: reduce)").matches;
		Object.assign(this, { clock: new Clock({ playing: !still }), stand: "", windows: [], shown: null });
		stage.tasks.push((now) => this.#draw(now));
		onTheme(() => (this.shown = null));
		find("policy").addEventListener("click", () => this.clip && find("policy-large").showModal());
	}

	/** Fetches the policy's clip when the run has moved on to another `stand`. */
	async refresh(stand) {
		const now = performance.now();
		if (stand === this.stand && (this.clip || now - this.asked < 5000)) return;
		Object.assign(this, { stand, asked: now });
		try {
			const { clip, words } = await get("api/policy");
			if (!clip || clip.form === "text") return;
			this.clip = await loadClip(clip);
			this.#open(visible(heard(words)));
		} catch {
			this.stand = ""; // asked again with the next status
		}
	}

	#open(words) {
		this.windows = ["policy", "waiting", "policy-large"].map((id) => {
			const canvas = find(id).querySelector("canvas");
			canvas.hidden = false;
			return { canvas, drawer: makeDrawer(this.clip, canvas, new Camera()) };
		});
		find("policy").hidden = false;
		find("policy").title = find("policy-words").textContent = `${words}.`;
		find("policy").setAttribute("aria-label", phrase`${words}; opens larger`);
		this.clock.load(this.clip.frames, this.clip.dt);
		this.shown = null;
	}

	#draw(now) {
		if (!this.clip) return;
		this.clock.tick(now);
		const { frame } = this.clock;
		if (frame === this.shown || (this.shown !== null && now - this.drawn < 30)) return;
		[this.shown, this.drawn] = [frame, now];
		for (const { canvas, drawer } of this.windows) {
			if (!canvas.clientWidth) continue; // not on screen
			fit(canvas);
			drawer.draw(frame, { ghost: "none" });
		}
	}
}
