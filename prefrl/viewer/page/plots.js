// Two plots: points against each other, and the reward of each step under its clip.

import { fit } from "./clips.js";
import { decimal, phrase } from "./language.js";
import { colours } from "./shade.js";

const FONT = '-apple-system, "Segoe UI", Roboto, "Helvetica Neue", "Liberation Sans", Arial, sans-serif';
const known = (value) => typeof value === "number" && Number.isFinite(value);
const minus = (text) => text.replace("-", "−");

/** Writes a reward with its sign. */
export function signed(value) {
	if (Math.abs(value) < 0.05) return "0";
	return `${value > 0 ? "+" : ""}${minus(decimal(value, Math.abs(value) < 9.95 ? 1 : 0, { useGrouping: false }))}`;
}

/** Returns about `count` round numbers from low to high. */
function ticks(low, high, count) {
	const raw = (high - low) / count || 1;
	const power = 10 ** Math.floor(Math.log10(raw));
	const step = [1, 2, 5, 10].find((factor) => factor * power >= raw) * power;
	const first = Math.ceil(low / step);
	return Array.from({ length: Math.max(0, Math.floor(high / step) - first + 1) }, (_, i) => (first + i) * step);
}

const number = (value) => minus(decimal(Number(value.toPrecision(6)), 4, { minimumFractionDigits: 0 }));

function start(canvas) {
	fit(canvas);
	const context = canvas.getContext("2d");
	const unit = canvas.width / Math.max(1, canvas.clientWidth);
	context.setTransform(unit, 0, 0, unit, 0, 0);
	context.clearRect(0, 0, canvas.clientWidth, canvas.clientHeight);
	context.lineJoin = "round";
	return { context, palette: colours(), width: canvas.clientWidth, height: canvas.clientHeight };
}

function line(context, ...points) {
	context.beginPath();
	points.forEach(([x, y]) => context.lineTo(x, y));
	context.stroke();
}

/** Draws points [x, y], the names of both axes, and the line that fits best. */
export function scatter(canvas, points, [across, up]) {
	const shown = points.filter((point) => point.every(known));
	const { context, palette, width, height } = start(canvas);
	if (!shown.length || width < 80) return;
	const box = { left: 50, right: width - 12, top: 24, bottom: height - 42 };
	const [xs, ys] = [0, 1].map((axis) => {
		const values = shown.map((point) => point[axis]);
		const [low, high] = [Math.min(...values), Math.max(...values)];
		const room = (high - low || 1) * 0.05;
		return [low - room, high + room];
	});
	const x = (value) => box.left + ((box.right - box.left) * (value - xs[0])) / (xs[1] - xs[0]);
	const y = (value) => box.bottom - ((box.bottom - box.top) * (value - ys[0])) / (ys[1] - ys[0]);
	context.font = `11.5px ${FONT}`;
	context.fillStyle = palette.muted;
	context.strokeStyle = palette.rule;
	context.textBaseline = "middle";
	context.textAlign = "right";
	for (const value of ticks(...ys, (box.bottom - box.top) / 42)) {
		line(context, [box.left, y(value)], [box.right, y(value)]);
		context.fillText(number(value), box.left - 7, y(value));
	}
	context.textAlign = "center";
	for (const value of ticks(...xs, (box.right - box.left) / 80)) {
		line(context, [x(value), box.top], [x(value), box.bottom]);
		context.fillText(number(value), x(value), box.bottom + 12);
	}
	context.font = `12.5px ${FONT}`;
	context.fillStyle = palette.ink;
	context.fillText(across, (box.left + box.right) / 2, height - 9);
	context.textAlign = "left";
	context.fillText(up, 2, 9);
	context.fillStyle = palette["line-1"];
	context.globalAlpha = Math.min(0.75, Math.max(0.25, 60 / shown.length));
	for (const point of shown) {
		context.beginPath();
		context.arc(x(point[0]), y(point[1]), 3, 0, 2 * Math.PI);
		context.fill();
	}
	context.globalAlpha = 1;
	const fitted = regression(shown);
	if (!fitted) return;
	context.save();
	context.rect(box.left, box.top, box.right - box.left, box.bottom - box.top);
	context.clip();
	context.strokeStyle = palette["line-2"];
	context.lineWidth = 2;
	line(context, ...xs.map((value) => [x(value), y(fitted(value))]));
	context.restore();
}

/** Returns the straight line that fits best, if there is one. */
function regression(points) {
	const [meanX, meanY] = [0, 1].map((axis) => points.reduce((sum, point) => sum + point[axis], 0) / points.length);
	let [both, own] = [0, 0];
	for (const [x, y] of points) {
		both += (x - meanX) * (y - meanY);
		own += (x - meanX) ** 2;
	}
	return own > 0 && points.length > 2 ? (x) => meanY + (both / own) * (x - meanX) : null;
}

/** Returns the lowest and highest reward of several clips; zero is always between. */
export function rangeOf(clips) {
	const values = clips.flat().filter(known);
	const [low, high] = [Math.min(0, ...values), Math.max(0, ...values)];
	return high > low ? [low, high] : [-1, 1];
}

/** The reward of each step as a line, with a cursor at the present. */
export class RewardLine {
	constructor(canvas, rewards, range) {
		Object.assign(this, { canvas, rewards, range });
		const best = rewards.reduce((top, value, i) => (known(value) && !(value <= rewards[top]) ? i : top), 0);
		Object.assign(this, { best, sum: rewards.filter(known).reduce((sum, value) => sum + value, 0) });
	}

	/** Returns the step at a place across the canvas, from 0 to 1. */
	at(part) {
		return Math.round(Math.min(Math.max(part, 0), 1) * (this.rewards.length - 1));
	}

	draw(position) {
		const { rewards, range: [low, high] } = this;
		const { context, palette, width, height } = start(this.canvas);
		const [top, bottom] = [19, height - 5];
		const x = (i) => 5 + ((width - 10) * i) / Math.max(1, rewards.length - 1);
		const y = (value) => bottom - ((bottom - top) * (value - low)) / (high - low);
		const frame = Math.min(Math.max(position, 0), rewards.length - 1);
		const value = rewards[Math.floor(frame)];
		context.fillStyle = palette["line-1"];
		context.globalAlpha = 0.16;
		for (const run of runs(rewards)) { // filled down, or up, to zero
			context.beginPath();
			context.moveTo(x(run[0]), y(0));
			run.forEach((i) => context.lineTo(x(i), y(rewards[i])));
			context.lineTo(x(run.at(-1)), y(0));
			context.fill();
		}
		context.globalAlpha = 1;
		context.strokeStyle = palette.muted;
		context.setLineDash([2, 3]);
		line(context, [5, y(0)], [width - 5, y(0)]);
		context.setLineDash([]);
		context.strokeStyle = palette["line-1"];
		context.lineWidth = 1.8;
		for (const run of runs(rewards)) line(context, ...run.map((i) => [x(i), y(rewards[i])]));
		context.fillStyle = palette["line-2"];
		context.fillRect(x(frame) - 0.75, top - 4, 1.5, bottom - top + 8);
		context.font = `11.5px ${FONT}`;
		context.textBaseline = "top";
		context.fillStyle = palette.muted;
		context.fillText(phrase("reward"), 5, 2);
		if (!known(value)) return;
		context.fillStyle = palette["line-2"];
		context.beginPath();
		context.arc(x(frame), y(value), 3.4, 0, 2 * Math.PI);
		context.fill();
		context.fillStyle = palette.ink;
		context.textAlign = "right";
		context.fillText(signed(value), width - 5, 2);
		context.textAlign = "left";
	}
}

/** Splits steps into runs without a gap. */
function runs(rewards) {
	const found = [];
	rewards.forEach((value, i) => {
		if (!known(value)) return;
		if (found.length && found.at(-1).at(-1) === i - 1) found.at(-1).push(i);
		else found.push([i]);
	});
	return found;
}
