// A camera that all clips share: turned, moved or zoomed on one, it moves on all.

const RADIANS = Math.PI / 180;
const clamp = (value, low, high) => Math.min(Math.max(value, low), high);

/** What the person changed about the view; it is kept from pair to pair. */
export class Camera {
	constructor() {
		this.version = 0;
		this.reset();
	}

	reset() {
		Object.assign(this, { azimuth: 0, elevation: 0, zoom: 1, right: 0, up: 0 });
		this.version += 1;
	}

	turn(azimuth, elevation) {
		this.azimuth += azimuth;
		this.elevation = clamp(this.elevation + elevation, -85, 85);
		this.version += 1;
	}

	magnify(factor) {
		this.zoom = clamp(this.zoom * factor, 0.25, 8);
		this.version += 1;
	}

	/** Moves sideways, by parts of the picture's height. */
	pan(right, up) {
		this.right = clamp(this.right + right, -1.5, 1.5);
		this.up = clamp(this.up + up, -1.5, 1.5);
		this.version += 1;
	}

	/** Returns the projection of a clip that follows `x y z` on a canvas. */
	project({ scene: { view }, distance }, floor, [x, y, z], { width, height }) {
		const azimuth = (view.azimuth + this.azimuth) * RADIANS;
		const away = distance / this.zoom;
		let elevation = clamp(view.elevation + this.elevation, -89, 60) * RADIANS;
		if (floor !== null) {
			// The eye stays above the floor, or it would show the floor from below.
			const room = clamp((z - floor - 0.04 * away) / away, -1, 1);
			elevation = Math.min(elevation, Math.asin(room));
		}
		const [ca, sa, ce, se] = [azimuth, elevation].flatMap((a) => [Math.cos(a), Math.sin(a)]);
		const forward = [ce * ca, ce * sa, se];
		const right = [sa, -ca, 0];
		const up = [-se * ca, -se * sa, ce];
		// The distance is meant for a picture of 4:3; narrower ones still show as much sideways.
		const focus = Math.min(height, width * 0.8) / 2 / Math.tan((view.fovy * RADIANS) / 2);
		const shift = (away * Math.min(height, width)) / focus;
		const eye = [x, y, z].map((value, i) =>
			value - forward[i] * away - (right[i] * this.right + up[i] * this.up) * shift);
		return { forward, right, up, eye, focus, away, elevation, cx: width / 2, cy: height / 2 };
	}
}

/** Lets mouse, touch and wheel move the camera; `onChange` asks for a new picture. */
export function attachGestures(canvas, camera, onChange) {
	const pointers = new Map();
	const middle = () => {
		const [a, b = a] = [...pointers.values()];
		return { x: (a.x + b.x) / 2, y: (a.y + b.y) / 2, span: Math.hypot(a.x - b.x, a.y - b.y) };
	};
	const moved = (before, event) => {
		const after = middle();
		const [dx, dy] = [after.x - before.x, after.y - before.y];
		const side = Math.min(canvas.clientWidth, canvas.clientHeight);
		if (pointers.size > 1 || event.shiftKey || event.buttons & 2) camera.pan(dx / side, -dy / side);
		else camera.turn(-dx * 0.4, -dy * 0.3);
		if (before.span > 20 && after.span > 20) camera.magnify(after.span / before.span);
		onChange();
	};
	canvas.addEventListener("pointerdown", (event) => {
		if (pointers.size > 1) return;
		pointers.set(event.pointerId, { x: event.clientX, y: event.clientY });
		canvas.setPointerCapture(event.pointerId);
	});
	canvas.addEventListener("pointermove", (event) => {
		if (!pointers.has(event.pointerId)) return;
		const before = middle();
		pointers.set(event.pointerId, { x: event.clientX, y: event.clientY });
		moved(before, event);
	});
	for (const name of ["pointerup", "pointercancel", "lostpointercapture"]) {
		canvas.addEventListener(name, (event) => pointers.delete(event.pointerId));
	}
	canvas.addEventListener("contextmenu", (event) => event.preventDefault());
	canvas.addEventListener("wheel", (event) => {
		if (event.ctrlKey) return; // the browser's own zoom
		event.preventDefault();
		camera.magnify(Math.exp(-event.deltaY * (event.deltaMode ? 0.05 : 0.0015)));
		onChange();
	}, { passive: false });
}
