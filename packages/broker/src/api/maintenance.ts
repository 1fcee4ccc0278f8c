/** Maximum bytes of a page for maintenance. Clients get it from the broker, which must not be busy with it. */
export const MAX_PAGE_BYTES = 64 * 1024
