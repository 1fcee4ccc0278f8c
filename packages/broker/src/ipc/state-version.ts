/** What a program of another version can read: raised whenever the shape below changes in a way that an older or newer one would misread. */
export const STATE_VERSION = 2

/** Those that this program can take over from. */
export const READABLE_VERSIONS: readonly number[] = [1, STATE_VERSION]

/** In the environment of `baton check` when a master asks whether that program could take over from it. */
export const STATE_VERSION_VARIABLE = 'BATON_MASTER_STATE_VERSION'
