// The capabilities of this telephone, in SIP.

export const ALLOW = "ACK, BYE, CANCEL, INFO, INVITE, MESSAGE, NOTIFY, OPTIONS, REFER";
export const SUPPORTED = "gruu, outbound, replaces";
// The options that may be required.
export const EXTENSIONS = ["gruu", "outbound", "path", "replaces"];
