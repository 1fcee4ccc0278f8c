/** The folder that has the published schemas and types of Kubernetes in its `node_modules`; installs them the first time. */
export function installedSchemas(): string
