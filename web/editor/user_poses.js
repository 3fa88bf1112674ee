// Poses that the artist has saved: OpenPose frames in files of the user's own on the server.

import { say } from "./words.js"

export const FOLDER = "vitruvian/poses"
const ENDING = ".json"

/** The name as it can be a file's: no separators, nothing that a system refuses. */
export const fileName = (name) =>
    name.normalize("NFC").replace(/[\\/:*?"<>|\u0000-\u001f]+/g, " ").replace(/\s+/g, " ")
        .replace(/^[. ]+|[. ]+$/g, "").slice(0, 80)

const pathOf = (name) => `${FOLDER}/${name}${ENDING}`

/**
 * The artist's poses behind `files`, ComfyUI's api: all of its requests are awaited, and what goes
 * wrong is an Error in words. Other tabs may change the files at any time, so nothing is kept here.
 */
export class UserPoses {
    constructor(files) {
        this.files = files
    }

    /** The names, sorted. */
    async list() {
        const files = await asked(() => this.files.listUserDataFullInfo(FOLDER))
        const names = files.map(({ path }) => path.split(/[\\/]/).pop())
        return names.filter((name) => name.endsWith(ENDING))
            .map((name) => name.slice(0, -ENDING.length)).sort((a, b) => a.localeCompare(b))
    }

    /** The saved frame of this name. */
    async read(name) {
        const answer = await asked(() => this.files.getUserData(pathOf(name)), name)
        try {
            return await answer.json()
        } catch {
            throw new Error(`${name}: ${say("the file is not JSON")}`)
        }
    }

    /** Saves a frame; false if there is one of this name and it is not to be replaced. */
    async save(name, frame, replace = false) {
        const kind = { stringify: true, throwOnError: false, full_info: false }
        const how = { overwrite: replace, ...kind }
        const store = () => this.files.storeUserData(pathOf(name), frame, how)
        return (await asked(store, name, [409])).status !== 409
    }

    /** Gives a pose another name; false if that name is taken. */
    async rename(name, other) {
        const [from, to] = [pathOf(name), pathOf(other)]
        const move = () => this.files.moveUserData(from, to, { overwrite: false })
        return (await asked(move, name, [409])).status !== 409
    }

    async remove(name) {
        await asked(() => this.files.deleteUserData(pathOf(name)), name, [404])
    }
}

/** The server's answer, if it is good or one of `expected`; else an Error with its words. */
async function asked(request, name = say("own poses"), expected = []) {
    let answer
    try {
        answer = await request()
    } catch (error) {
        const { message } = error
        throw new Error(`${name}: ${say("the server does not answer (<message>)", { message })}`)
    }
    if (Array.isArray(answer) || answer.ok || expected.includes(answer.status)) return answer
    const answered = `${answer.status} ${answer.statusText}`.trim()
    throw new Error(`${name}: ${say("the server says <answer>", { answer: answered })}`)
}
