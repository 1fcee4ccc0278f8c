/** Name and version of this package, as sent in HELLO. Written by `npm version`. */
export const SDK_VERSION = '@baton/backend-sdk/0.1.0'
