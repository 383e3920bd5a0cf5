// The language of the page. The sources are English, and their texts are the keys of languages/*.json.
// dom.js looks up whatever it puts on the page; a text without a translation stays English.

import { keep, remember } from "./memory.js";

const LANGUAGES = { en: "English", de: "Deutsch", ar: "العربية" };
const PATIENCE = 8000; // milliseconds after which the page goes on in English
const RIGHT_TO_LEFT = /[\u0590-\u08ff\ufb1d-\ufdff\ufe70-\ufefc]/;
const PLACE = /\{(\w+)\}/g;
const [ISOLATE, POP] = ["\u2068", "\u2069"];

/** Returns the language that the address asks for, that was chosen last, or that the browser prefers. */
function chosen() {
	const asked = new URL(location).searchParams.get("lang");
	if (Object.hasOwn(LANGUAGES, asked)) keep("language", asked);
	const wanted = [asked, remember("language"), ...navigator.languages.map((tag) => tag.split("-")[0])];
	return wanted.find((code) => Object.hasOwn(LANGUAGES, code)) ?? "en";
}

async function load(code) {
	const nothing = { texts: {}, server: {} };
	if (code === "en") return nothing;
	try {
		const address = new URL(`languages/${code}.json`, import.meta.url);
		return await (await fetch(address, { signal: AbortSignal.timeout(PATIENCE) })).json();
	} catch {
		return nothing;
	}
}

const wanted = chosen();
const file = await load(wanted);
const language = Object.keys(file.texts).length ? wanted : "en";
const texts = new Map(Object.entries(file.texts));
const sentences = new Map(Object.entries(file.server));
const plural = new Intl.PluralRules(language);
const patterns = [...sentences].filter(([key]) => key.includes("{")).map(([key, sentence]) => [
	new RegExp(`^${key.replace(/[.*+?^$()|[\]\\]/g, "\\$&").replace(PLACE, "(?<$1>.+)")}$`, "s"), sentence]);

/** "rtl" if the page is written from right to left. */
export const direction = language === "ar" ? "rtl" : "ltr";
Object.assign(document.documentElement, { lang: language, dir: direction });

const filled = (text, values) => text.replace(PLACE, (_, name) => inside(values[name]));

/** Keeps a text's own direction within a sentence that runs the other way. */
function inside(value) {
	if (typeof value !== "string") return value;
	const turns = RIGHT_TO_LEFT.test(value);
	const other = direction === "ltr" ? turns : !turns && /\p{L}/u.test(value);
	return other ? isolate(value) : value;
}

/** Encloses a text so that it neither turns what is around it nor is turned by it, nor is translated. */
export const isolate = (text) => `${ISOLATE}${text}${POP}`;

/** Encloses what is read from left to right in any language, such as an order of clips. */
export const leftToRight = (text) => (direction === "rtl" ? `\u2066${text}${POP}` : text);

/** Whether a text is one of the page's, which would be translated. */
export const isPhrase = (text) => texts.has(text);

/** Returns a text of the page in its language: phrase("Store"), or phrase`${done} of ${budget} answers`, which
 * is "{1} of {2} answers" in the files. Values are put in as they are. Where a language has several forms, the
 * first value that is a number says which. Whatever is no text is returned as it is. */
export function phrase(text, ...values) {
	if (!Array.isArray(text)) return texts.get(text) ?? text;
	const key = text.reduce((start, rest, i) => `${start}{${i}}${rest}`);
	const found = texts.get(key) ?? key;
	const form = typeof found === "string" ? found
		: found[plural.select(values.find((value) => typeof value === "number"))] ?? found.other;
	return filled(form, [null, ...values]);
}

/** Returns a sentence of the server in the page's language; one that the files lack stays as it is. Of its
 * parts only {words} are a sentence again; everything else is a number, a name, or a command. */
export function heard(sentence) {
	if (sentences.has(sentence)) return sentences.get(sentence);
	for (const [pattern, found] of patterns) {
		const { words, ...values } = pattern.exec(sentence)?.groups ?? {};
		if (words) values.words = heard(words);
		if (Object.keys(values).length) return filled(found, values);
	}
	return sentence;
}

/** Writes a number with so many digits after the point, in Western digits: they are on the keys, too. `style`:
 * further options of Intl.NumberFormat. */
export function decimal(value, digits = 0, style = {}) {
	const usual = { minimumFractionDigits: digits, maximumFractionDigits: digits, numberingSystem: "latn" };
	return value.toLocaleString(language, { ...usual, ...style });
}

/** Translates what index.html says, and fills the menu of languages; a choice loads the page again. */
export function translatePage(menu) {
	const walk = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
	while (walk.nextNode()) {
		const { data } = walk.currentNode;
		const text = data.trim().replace(/\s+/g, " ");
		if (isPhrase(text)) walk.currentNode.data = data.replace(data.trim(), () => phrase(text));
	}
	for (const name of ["title", "aria-label", "placeholder"]) {
		for (const node of document.querySelectorAll(`[${name}]`)) node.setAttribute(name, phrase(node.getAttribute(name)));
	}
	menu.append(...Object.entries(LANGUAGES).map(([code, name]) => new Option(name, code, false, code === language)));
	menu.addEventListener("change", () => {
		keep("language", menu.value);
		const address = new URL(location);
		address.searchParams.delete("lang");
		history.replaceState(null, "", address);
		location.reload();
	});
}
