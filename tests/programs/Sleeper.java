/** Waits for the given milliseconds, says so, and ends with the given status. */
public final class Sleeper {
    private Sleeper() {}

    public static void main(String[] arguments) throws InterruptedException {
        Thread.sleep(Long.parseLong(arguments[0]));
        System.out.println("done");
        System.exit(Integer.parseInt(arguments[1]));
    }
}
