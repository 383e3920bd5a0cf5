// One clock for all clips on the page: they can never drift apart.

const SEAM = 0.4; // seconds for which the last frame stays, so that one sees where a clip begins again
const SPEEDS = [0.1, 0.2, 0.35, 0.5, 0.75, 1, 1.5, 2, 3, 4];

/** Counts frames in real time; every clip draws the frame it says. */
export class Clock {
	constructor({ playing = true } = {}) {
		Object.assign(this, { playing, unasked: playing, speed: 1, frames: 1, dt: 1, position: 0, last: null, held: 0 });
	}

	/** Starts from the first frame of clips of at most `frames` frames, `dt` seconds each. */
	load(frames, dt) {
		Object.assign(this, { frames: Math.max(1, frames), dt: dt > 0 ? dt : 1 / 30 });
		Object.assign(this, { position: 0, last: null, held: 0, playing: this.unasked });
	}

	/** Moves on to `now` (milliseconds). */
	tick(now) {
		const elapsed = this.last === null ? 0 : Math.min((now - this.last) / 1000, 0.25);
		this.last = now;
		if (!this.playing || this.frames < 2) return;
		const pace = this.speed / this.dt; // frames a second
		this.position += elapsed * pace;
		if (this.position < this.frames) return;
		this.held += (this.position - this.frames) / pace;
		this.position = this.held < SEAM ? this.frames : ((this.held - SEAM) * pace) % this.frames;
		if (this.held >= SEAM) this.held = 0;
	}

	get frame() {
		return Math.min(Math.floor(this.position), this.frames - 1);
	}

	toggle() {
		this.playing = !this.playing;
		if (!this.playing) this.position = this.frame;
	}

	seek(frame) {
		Object.assign(this, { playing: false, held: 0 });
		this.position = Math.min(Math.max(Math.round(frame), 0), this.frames - 1);
	}

	step(count) {
		this.seek((this.frame + count + this.frames) % this.frames);
	}

	restart() {
		Object.assign(this, { position: 0, playing: true, last: null, held: 0 });
	}

	shift(direction) {
		const index = SPEEDS.indexOf(this.speed) + direction;
		this.speed = SPEEDS[Math.min(Math.max(index, 0), SPEEDS.length - 1)];
	}
}
