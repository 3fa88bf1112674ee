// The editor's words in the artist's language, as locales/*/main.json has them under poseEditor.

let words = {}

/** Takes over the translations, { English: translated }. */
export function speak(translated) {
    words = translated ?? {}
}

/** The text in the artist's language; <n> in it stands for what `values` has under n. */
export function say(text, values = {}) {
    const translated = words[text] ?? text
    return translated.replace(/<(\w+)>/g, (all, name) => values[name] ?? all)
}
