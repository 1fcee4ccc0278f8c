/** Version of the state that crosses an exec in place. Raised with every change that an older or newer program would misread. */
export const STATE_VERSION = 2

/** Versions that this program can take over from. */
export const READABLE_VERSIONS: readonly number[] = [1, STATE_VERSION]

/**
 * Optional parts of the state whose descriptors a program without them would keep open for ever, so it must not be given them. `baton check` prints
 * the names for the master that asks.
 */
export const CARRIED_PARTS = ['copies'] as const

/** Begins the line with those names. */
export const CARRIED_PARTS_LABEL = 'takes over: '

/** Environment variable that a master sets for `baton check` to ask whether that program could take over from it. */
export const STATE_VERSION_VARIABLE = 'BATON_MASTER_STATE_VERSION'
