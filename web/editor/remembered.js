// Small preferences that the browser keeps, so that every editor begins as the last one was left.

const key = (name) => `Vitruvian.PoseEditor.${name}`

/** What was remembered under this name; `otherwise` where nothing is, or nothing can be kept. */
export function remembered(name, otherwise) {
    try {
        return JSON.parse(localStorage.getItem(key(name))) ?? otherwise
    } catch {
        return otherwise
    }
}

export function remember(name, value) {
    try {
        localStorage.setItem(key(name), JSON.stringify(value))
    } catch {
        // a browser that keeps nothing is no reason to stop
    }
}
