// What this browser remembers. One that forbids it remembers for as long as the tab lives.

/** Reads from localStorage; a browser that forbids it has nothing stored. */
export function remember(name, fallback = null) {
	try {
		const text = localStorage.getItem(`prefrl:${name}`);
		return text === null ? fallback : JSON.parse(text);
	} catch {
		return fallback;
	}
}

/** Lists in order the names in localStorage that begin like this. */
export function remembered(start) {
	try {
		const names = Object.keys(localStorage).map((name) => name.replace("prefrl:", ""));
		return names.filter((name) => name.startsWith(start)).sort();
	} catch {
		return [];
	}
}

/** Writes to localStorage; null removes. */
export function keep(name, value) {
	try {
		if (value === null) localStorage.removeItem(`prefrl:${name}`);
		else localStorage.setItem(`prefrl:${name}`, JSON.stringify(value));
	} catch {
		// full or forbidden: it lives for as long as the tab
	}
}
