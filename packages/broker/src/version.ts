/** Version of the `@baton/broker` package, shown by `baton --version`, status and `baton_build_info`. Written by `npm version`. */
export const BROKER_VERSION = '0.1.0'
