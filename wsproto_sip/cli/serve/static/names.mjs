// What this telephone can do, in the words of SIP.

export const ALLOW = "ACK, BYE, CANCEL, INFO, INVITE, MESSAGE, NOTIFY, OPTIONS, REFER";
export const SUPPORTED = "gruu, outbound, replaces";
// What may stand in Require.
export const EXTENSIONS = ["gruu", "outbound", "path", "replaces"];
